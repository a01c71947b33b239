//! The socket that accepts connections.

use std::{io, net::ToSocketAddrs};

use tokio::net::{TcpListener, TcpSocket};

/// How many connections may wait to be accepted: the most that Linux allows by default. The standard library asks for
/// 128. When more connections wait on a busy machine, Linux drops their first packets, which are sent again a second
/// later.
const BACKLOG: u32 = 4_096;

/// Listens on the first address of the host that can be bound. Must be called within the context of a runtime, which
/// drives the socket.
pub(crate) fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = None;
    for address in (host, port).to_socket_addrs()? {
        let listener = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // As in the standard library. On Windows this would let other processes take over the port.
            if cfg!(not(windows)) {
                socket.set_reuseaddr(true)?;
            }
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        match listener() {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the host has no address")))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, time::Duration};

    use super::listen;

    /// A regression test: from the 130th on, connections took a second, which a client counts as a stall.
    #[test]
    fn hundreds_of_connections_wait_to_be_accepted() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _within = runtime.enter();
        // Nothing is accepted, because nothing drives the runtime.
        let listener = listen("127.0.0.1", 0).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(900));
        let connections = (0..400).map_while(|nth| connect(nth).ok()).collect::<Vec<_>>();
        assert_eq!(connections.len(), 400);
    }
}
