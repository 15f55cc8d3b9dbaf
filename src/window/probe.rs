//! Tries, from inside, what cannot be reached.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use rustix::io::Errno;

/// A refusal comes at once over IPv4, and over IPv6 with the second try of the kernel,
/// after a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Hosts that are nowhere (RFC 5737, RFC 3849): packets to them leave a machine that has
/// a route and no firewall, and disturb nobody.
pub(super) const NOWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 443),
];

/// How a try to connect ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tried {
    /// A firewall said no.
    Refused,
    /// This machine has no way there.
    NoRoute,
    /// There was an answer, or a packet left and nobody said no.
    Left,
}

/// Tries all, at once.
pub(super) fn all(hosts: &[SocketAddr]) -> Vec<(SocketAddr, Tried)> {
    std::thread::scope(|scope| {
        let tries: Vec<_> = hosts.iter().map(|host| scope.spawn(move || one(*host))).collect();
        let tried = tries.into_iter().map(|tried| tried.join().unwrap_or(Tried::Left));
        hosts.iter().copied().zip(tried).collect()
    })
}

fn one(host: SocketAddr) -> Tried {
    match TcpStream::connect_timeout(&host, PATIENCE) {
        Ok(_) => Tried::Left,
        Err(error) => judge(&error),
    }
}

fn judge(error: &io::Error) -> Tried {
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS | Errno::HOSTUNREACH) => Tried::Refused,
        Some(Errno::NETUNREACH | Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT) => Tried::NoRoute,
        // Also that a host refused, or that nobody answered.
        _ => Tried::Left,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_answers_was_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        assert_eq!(all(&[open]), [(open, Tried::Left)]);
        drop(listener);
        assert_eq!(all(&[open]), [(open, Tried::Left)], "a host that refuses was reached");
        assert_eq!(judge(&io::ErrorKind::TimedOut.into()), Tried::Left);
    }
}
