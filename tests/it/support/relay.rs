//! A link between two machines that a test makes slow, silent, or cuts.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a link does once so many bytes have gone up.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Nothing.
    None,
    /// Both ends hear that it is gone.
    Cut,
    /// Nobody hears anything any more.
    Silent,
    /// So many bytes per second pass, each way.
    Slow(u64),
}

struct Link {
    fault: Mutex<(u64, Fault)>,
    sent: AtomicU64,
    ended: AtomicBool,
}

/// A port of this machine that leads to another one.
pub struct Relay {
    pub port: u16,
    link: Arc<Link>,
}

impl Relay {
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let link = Arc::new(Link {
            fault: Mutex::new((0, Fault::None)),
            sent: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let of_listener = Arc::clone(&link);
        std::thread::spawn(move || {
            while !of_listener.ended.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((client, _)) => connect(&of_listener, &client, server),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { port, link }
    }

    /// From now on, after so many bytes.
    pub fn fails(&self, after: u64, fault: Fault) {
        *self.link.fault.lock().unwrap() = (after, fault);
        self.link.sent.store(0, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.link.ended.store(true, Ordering::SeqCst);
    }
}

fn connect(link: &Arc<Link>, client: &TcpStream, server: u16) {
    client.set_nonblocking(false).unwrap();
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
    for (from, to, is_up) in [(client, &server, true), (&server, client, false)] {
        let (link, from, to) = (Arc::clone(link), from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || pass(&link, from, to, is_up));
    }
}

fn pass(link: &Link, mut from: TcpStream, mut to: TcpStream, is_up: bool) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if is_up {
            link.sent.fetch_add(count as u64, Ordering::SeqCst);
        }
        let fault = || {
            let (after, fault) = *link.fault.lock().unwrap();
            if link.sent.load(Ordering::SeqCst) > after { fault } else { Fault::None }
        };
        match fault() {
            Fault::Cut => break,
            Fault::Silent => {
                while matches!(fault(), Fault::Silent) && !link.ended.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                break;
            }
            Fault::Slow(rate) => std::thread::sleep(Duration::from_micros(count as u64 * 1_000_000 / rate)),
            Fault::None => {}
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
