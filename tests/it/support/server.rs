//! Real servers on loopback: nginx, nginx with git behind it, sshd.

use std::fs;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use super::Lab;
use super::program;
use super::run;

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A program that serves until it is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, is_up: impl Fn() -> bool) -> Self {
        let name = format!("{command:?}");
        let started = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let begun = Instant::now();
        while !is_up() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{name} did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        started
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nginx that serves a folder.
pub struct Nginx {
    _running: Running,
    port: u16,
    _folder: TempDir,
}

impl Nginx {
    pub fn serve(root: &Path) -> Self {
        let port = free_port();
        let server = format!("listen 127.0.0.1:{port}; root {}; location ~ /\\. {{ return 404; }}", root.display());
        Self::start(port, &server)
    }

    fn start(port: u16, server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().display();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {base}/pid;\nerror_log {base}/error.log;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path {base}/a; proxy_temp_path {base}/b;\n\
             fastcgi_temp_path {base}/c; uwsgi_temp_path {base}/d; scgi_temp_path {base}/e;\n\
             server {{ {server} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = program("/usr/sbin/nginx");
        command.arg("-c").arg(&file).args(["-e", &format!("{base}/error.log")]);
        let running = Running::start(&mut command, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { _running: running, port, _folder: folder }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// The host that laboratories fetch source from; no DNS knows it.
pub const GIT_HOST: &str = "git.kestrel.example";

/// git over https: nginx, fcgiwrap, `git http-backend`.
pub struct GitHttps {
    _nginx: Nginx,
    _fcgiwrap: Running,
}

impl GitHttps {
    /// Serves the laboratory's `source.git`, by the certificate `NAME.pem`. What
    /// lies below `/cgi/` is a script of the laboratory.
    pub fn serve(lab: &Lab, port: u16, certificate: &str) -> Self {
        let socket = lab.path("fcgi.sock");
        let _ = fs::remove_file(&socket);
        let mut command = program("fcgiwrap");
        command.arg("-s").arg(format!("unix:{}", socket.display()));
        let fcgiwrap = Running::start(&mut command, || socket.exists());
        let root = lab.path("");
        let root = root.display();
        let pass = format!(
            "fastcgi_pass unix:{root}/fcgi.sock; fastcgi_buffering off; fastcgi_read_timeout 300;\n\
             fastcgi_param REQUEST_METHOD $request_method; fastcgi_param QUERY_STRING $query_string;\n\
             fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length;\n\
             fastcgi_param GIT_PROTOCOL $http_git_protocol; fastcgi_param PATH_INFO $uri;\n\
             fastcgi_param GIT_PROJECT_ROOT {root}; fastcgi_param GIT_HTTP_EXPORT_ALL 1;"
        );
        let server = format!(
            "listen 127.0.0.1:{port} ssl; ssl_certificate {root}/{certificate}.pem;\n\
             ssl_certificate_key {root}/{certificate}.key;\n\
             location / {{ {pass} fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend; }}\n\
             location /moved.git/ {{ return 301 https://{GIT_HOST}:{port}/source.git/info/refs?$args; }}\n\
             location /cgi/ {{ {pass} fastcgi_param SCRIPT_FILENAME {root}/cgi.sh; }}"
        );
        Self { _nginx: Nginx::start(port, &server), _fcgiwrap: fcgiwrap }
    }

    /// Makes `ca.pem` and `other-ca.pem`; `server.pem` for the host by the first,
    /// `wrong.pem` for another host by the first, and `alone.pem` by nobody.
    pub fn certificates(lab: &Lab) {
        let openssl = |arguments: &[&str]| run(program("openssl").current_dir(lab.path("")).args(arguments)).exits(0);
        let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];
        for (name, subject) in [("ca", "/CN=CA"), ("other-ca", "/CN=Other"), ("alone", "/CN=git.kestrel.example")] {
            let (out, key) = (format!("{name}.pem"), format!("{name}.key"));
            let files = ["-subj", subject, "-keyout", &key, "-out", &out];
            let alternative = format!("subjectAltName=DNS:{GIT_HOST}");
            let extra = if name == "alone" { vec!["-addext", &alternative] } else { Vec::new() };
            openssl(&[&["req", "-x509"][..], &new, &files, &extra].concat());
        }
        for (name, host) in [("server", GIT_HOST), ("wrong", "other.kestrel.example")] {
            let (out, key, request) = (format!("{name}.pem"), format!("{name}.key"), format!("{name}.csr"));
            let subject = format!("/CN={host}");
            openssl(
                &[&["req", "-new"][..], &new[..5], &["-subj", &subject, "-keyout", &key, "-out", &request]].concat(),
            );
            lab.write("extensions", format!("subjectAltName=DNS:{host}\n"));
            openssl(&[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "30",
                "-extfile",
                "extensions",
                "-out",
                &out,
            ]);
        }
    }
}

/// sshd that runs one command for whoever has the right key.
pub struct Sshd {
    _running: Running,
    folder: PathBuf,
}

impl Sshd {
    /// Runs the shell script `command` of the laboratory at every login with the
    /// key `deploy`. The host's key is `HOST_KEY`.
    pub fn serve(lab: &Lab, port: u16, host_key: &str) -> Self {
        // What Debian's service does before it starts sshd.
        let _ = fs::create_dir_all("/run/sshd");
        let folder = lab.path("sshd");
        fs::create_dir_all(&folder).unwrap();
        fs::copy(lab.path("deploy.pub"), folder.join("authorized_keys")).unwrap();
        let root = lab.path("");
        let root = root.display();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {root}/{host_key}\nPidFile {root}/sshd/pid\n\
             AuthorizedKeysFile {root}/sshd/authorized_keys\nAuthenticationMethods publickey\n\
             StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nAcceptEnv GIT_PROTOCOL\n\
             ForceCommand /bin/sh {root}/served.sh\n"
        );
        fs::write(folder.join("config"), config).unwrap();
        let mut command = program("/usr/sbin/sshd");
        command.args(["-D", "-E"]).arg(folder.join("log")).arg("-f").arg(folder.join("config"));
        let running = Running::start(&mut command, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { _running: running, folder }
    }

    /// What sshd has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// Who may log in: the user that runs the tests.
    pub fn user() -> String {
        run(program("id").arg("-un")).exits(0).out.trim().to_owned()
    }

    /// Makes a key pair in the laboratory, and gives its public half.
    pub fn key(lab: &Lab, name: &str) -> String {
        run(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(lab.path(name))).exits(0);
        fs::read_to_string(lab.path(&format!("{name}.pub"))).unwrap().trim().to_owned()
    }
}
