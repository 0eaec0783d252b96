//! Views of a value behind a lock of its own, as a `Reservation` and an `SkBuff` of the binding have
//! them, against those who take the value or alter it. With a global lock, Python's, all of it comes
//! one after the other; on an interpreter that has none it comes as it is told here.

use loom::sync::{Arc, Mutex};
use loom::thread;

use super::views::Views;
use super::{Payload, model};

/// What lies behind the lock: of a fragment or a packet, its bytes.
struct Object {
    bytes: Mutex<Option<Payload>>,
    views: Views,
}

impl Object {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(Some(Payload::new())),
            views: Views::none(),
        })
    }

    /// `__getbuffer__`: what a view shows, until `views.end`.
    fn view(&self) -> Option<Payload> {
        let mut locked = self.bytes.lock().unwrap();
        let bytes = locked.as_mut()?;
        self.views.begin(bytes);
        Some(bytes.clone())
    }

    /// `commit`, `release`: the bytes, if nobody looks.
    fn take(&self) -> Option<Payload> {
        let mut locked = self.bytes.lock().unwrap();
        self.views.over(locked.as_ref()?).ok()?;
        locked.take()
    }

    /// `trim`, `linearize`: moves the bytes, if nobody looks.
    fn alter(&self) -> bool {
        let locked = self.bytes.lock().unwrap();
        let bytes = locked.as_ref().expect("nobody takes them");
        let alone = self.views.over(bytes).is_ok();
        if alone {
            bytes.write();
        }
        alone
    }
}

#[test]
fn a_view_against_commit() {
    model(|| {
        let object = Object::new();
        let theirs = Arc::clone(&object);
        let other = thread::spawn(move || {
            if let Some(bytes) = theirs.view() {
                bytes.write();
                theirs.views.end();
            }
        });
        let taken = object.take();
        if let Some(bytes) = &taken {
            bytes.write();
        }
        other.join().unwrap();
        assert!(taken.is_some() || object.take().is_some(), "a view stayed");
        assert!(object.view().is_none(), "of bytes that are gone");
    });
}

#[test]
fn a_view_against_altering() {
    model(|| {
        let object = Object::new();
        let theirs = Arc::clone(&object);
        let other = thread::spawn(move || {
            let bytes = theirs.view().expect("nobody takes them");
            bytes.read();
            theirs.views.end();
        });
        object.alter();
        other.join().unwrap();
        assert!(object.alter(), "a view stayed");
    });
}

#[test]
fn two_views_against_commit() {
    model(|| {
        let object = Object::new();
        let readers = [(); 2].map(|()| {
            let (theirs, bytes) = (Arc::clone(&object), object.view().unwrap());
            thread::spawn(move || {
                bytes.read();
                theirs.views.end();
            })
        });
        // Of the two, the one that came to its end first counts as much as the other.
        if let Some(bytes) = object.take() {
            bytes.write();
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
