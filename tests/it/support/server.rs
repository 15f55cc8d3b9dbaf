//! Real web servers on loopback.

use std::fs;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use super::program;

/// nginx that serves a folder.
pub struct Nginx {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Nginx {
    pub fn serve(root: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let base = folder.path().display();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {base}/pid;\nerror_log {base}/error.log;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path {base}/a; proxy_temp_path {base}/b;\n\
             fastcgi_temp_path {base}/c; uwsgi_temp_path {base}/d; scgi_temp_path {base}/e;\n\
             server {{ listen 127.0.0.1:{port}; root {}; location ~ /\\. {{ return 404; }} }} }}\n",
            root.display()
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = program("/usr/sbin/nginx");
        command
            .arg("-c")
            .arg(&file)
            .args(["-e", &format!("{base}/error.log")])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "nginx did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, _folder: folder }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
