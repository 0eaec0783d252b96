//! Who sent a packet, as the `socket` module writes addresses.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;

use pagefrag::net::RxFact;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// The address of a packet's sender.
pub(crate) fn address<'py>(py: Python<'py>, fact: RxFact<'_>) -> PyResult<Bound<'py, PyAny>> {
    match fact.source().to_socket_addr() {
        Some(source) => internet_address(py, source),
        None => other_address(py, fact.name()),
    }
}

fn internet_address(py: Python<'_>, address: SocketAddr) -> PyResult<Bound<'_, PyAny>> {
    let host = address.ip().to_string();
    let tuple = match address {
        SocketAddr::V4(v4) => (host, v4.port()).into_pyobject(py)?.into_any(),
        SocketAddr::V6(v6) => (host, v6.port(), u32::from_be(v6.flowinfo()), v6.scope_id())
            .into_pyobject(py)?
            .into_any(),
    };
    Ok(tuple)
}

/// The same of a UNIX or a packet socket; `None` from a UNIX socket without a name.
#[cold]
fn other_address<'py>(py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let part = |at: usize, len: usize| name.get(at..at + len);
    let (Some(&[first, second]), module) = (name.first_chunk::<2>(), py.import("socket")?) else {
        return Ok(py.None().into_bound(py));
    };
    let is_family = |constant| -> PyResult<bool> {
        let number: u16 = module.getattr(constant)?.extract()?;
        Ok(u16::from_ne_bytes([first, second]) == number)
    };
    if is_family("AF_UNIX")? {
        let path = &name[2..];
        if path.first().is_none_or(|first| *first == 0) {
            return Ok(PyBytes::new(py, path).into_any());
        }
        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
        return Ok(OsStr::from_bytes(path).into_pyobject(py)?.into_any());
    }
    if is_family("AF_PACKET")?
        && let (Some(&[p0, p1, i0, i1, i2, i3, h0, h1, kind, len]), Some(rest)) = (
            part(2, 10).and_then(|part| part.first_chunk()),
            name.get(12..),
        )
    {
        let index = u32::from_ne_bytes([i0, i1, i2, i3]);
        let interface = module.call_method1("if_indextoname", (index,));
        // An interface that is gone has no name any more.
        let interface = interface.unwrap_or_else(|_| PyString::new(py, "").into_any());
        let hardware = PyBytes::new(py, &rest[..usize::from(len).min(rest.len())]);
        let (protocol, hardware_type) =
            (u16::from_be_bytes([p0, p1]), u16::from_ne_bytes([h0, h1]));
        return Ok((interface, protocol, kind, hardware_type, hardware)
            .into_pyobject(py)?
            .into_any());
    }
    Ok(py.None().into_bound(py))
}
