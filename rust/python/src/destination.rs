//! Where datagrams go: addresses as the `socket` module writes them, one for all or one for each.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use pagefrag::net::Source;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::batch::Batch;
use crate::error::{kind as wrong_kind, value};
use crate::made::guarded;

/// `(host, port)` or `(host, port, flowinfo, scope_id)`. A host that is no number is looked up
/// for the family of `sock`.
fn address(sock: &Bound<'_, PyAny>, address: &Bound<'_, PyAny>) -> PyResult<Source> {
    let wrong = || wrong_kind("an address is a tuple (host, port) or one of four");
    let tuple = address.cast::<PyTuple>().map_err(|_| wrong())?;
    let (host, port, flow, scope): (Bound<'_, PyString>, u16, u32, u32) = match tuple.len() {
        2 => {
            let (host, port) = tuple.extract()?;
            (host, port, 0, 0)
        }
        4 => tuple.extract()?,
        _ => return Err(wrong()),
    };
    match host.to_str()?.parse() {
        Ok(IpAddr::V4(ip)) => Ok(SocketAddr::from((ip, port)).into()),
        // The socket module shows the label as a number, the kernel keeps it as on the wire.
        Ok(IpAddr::V6(ip)) => {
            Ok(SocketAddr::from(SocketAddrV6::new(ip, port, flow.to_be(), scope)).into())
        }
        Err(_) => guarded(sock.py(), || looked_up(sock, &host, port)),
    }
}

/// The first answer of `socket.getaddrinfo`.
#[cold]
fn looked_up(sock: &Bound<'_, PyAny>, host: &Bound<'_, PyString>, port: u16) -> PyResult<Source> {
    let module = sock.py().import("socket")?;
    let family = sock
        .getattr_opt("family")?
        .map_or_else(|| module.getattr("AF_UNSPEC"), Ok)?;
    let host = match host.to_str()? {
        "<broadcast>" => PyString::new(sock.py(), "255.255.255.255"),
        _ => host.clone(),
    };
    let kind = module.getattr("SOCK_DGRAM")?;
    let answers = module.call_method1("getaddrinfo", (host, port, family, kind))?;
    let found = answers.get_item(0)?.get_item(4)?;
    let numeric: Bound<'_, PyString> = found.get_item(0)?.cast_into()?;
    // A scope that is written into the host is a number behind it as well.
    let bare = numeric.to_str()?.split('%').next().unwrap_or_default();
    let ip: IpAddr = bare
        .parse()
        .map_err(|_| value(&format!("no address: {bare}")))?;
    match ip {
        IpAddr::V4(ip) => Ok(SocketAddr::from((ip, port)).into()),
        IpAddr::V6(ip) => {
            let scope = found.get_item(3)?.extract()?;
            Ok(SocketAddr::from(SocketAddrV6::new(ip, port, 0, scope)).into())
        }
    }
}

/// The destinations of so many datagrams. `None` is where the socket is connected; a `Batch`
/// stands for who sent its packets.
pub(crate) fn destinations(
    sock: &Bound<'_, PyAny>,
    to: Option<&Bound<'_, PyAny>>,
    datagrams: usize,
) -> PyResult<Vec<Option<Source>>> {
    let Some(to) = to else {
        return Ok(vec![None; datagrams]);
    };
    if is_address(to) {
        return Ok(vec![Some(address(sock, to)?); datagrams]);
    }
    if let Ok(batch) = to.cast_exact::<Batch>() {
        return counted(senders(batch.get())?, datagrams);
    }
    let mut found: Vec<Option<Source>> = Vec::with_capacity(datagrams);
    // Equal addresses of a batch are one object, read once.
    let mut last: Option<Bound<'_, PyAny>> = None;
    for to in to.try_iter()? {
        let to = to?;
        let known = last.as_ref().filter(|last| last.is(&to));
        found.push(match (known, found.last()) {
            (Some(_), Some(source)) => *source,
            _ if to.is_none() => None,
            _ => Some(address(sock, &to)?),
        });
        last = Some(to);
    }
    counted(found, datagrams)
}

/// Who sent the packets of a batch, without an object for each.
fn senders(batch: &Batch) -> PyResult<Vec<Option<Source>>> {
    let missing = || value("a packet of the batch has no IP address to answer to");
    let found = batch.sources();
    found
        .map(|source| source.map(Some).ok_or_else(missing))
        .collect()
}

/// One for each.
fn counted(found: Vec<Option<Source>>, datagrams: usize) -> PyResult<Vec<Option<Source>>> {
    if found.len() == datagrams {
        return Ok(found);
    }
    let addresses = found.len();
    Err(value(&format!(
        "{addresses} addresses for {datagrams} datagrams"
    )))
}

/// Whether this is meant as one address: a tuple that starts with a host.
fn is_address(to: &Bound<'_, PyAny>) -> bool {
    to.cast::<PyTuple>().is_ok_and(|tuple| {
        tuple
            .get_item(0)
            .is_ok_and(|host| host.is_instance_of::<PyString>())
    })
}
