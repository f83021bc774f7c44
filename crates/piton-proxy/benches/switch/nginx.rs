//! The peer: nginx, switched by a new configuration and a reload.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use piton_proxy::Slot;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::sleep;

pub(crate) struct Nginx {
    pub(crate) addr: SocketAddr,
    apps: [SocketAddr; 2],
    process: Child,
    dir: TempDir,
}

impl Nginx {
    /// Starts nginx; none when it is not installed.
    pub(crate) async fn start(apps: [SocketAddr; 2]) -> Option<Nginx> {
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        configure(dir.path(), addr, apps[0]);
        let process = Command::new("nginx")
            .arg("-p")
            .arg(dir.path())
            .args(["-e", "error.log", "-c", "nginx.conf"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let nginx = Nginx { addr, apps, process, dir };
        while TcpStream::connect(addr).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        Some(nginx)
    }

    pub(crate) fn to(&mut self, slot: Slot) {
        let app = match slot {
            Slot::Blue => self.apps[0],
            Slot::Green => self.apps[1],
        };
        configure(self.dir.path(), self.addr, app);
        // What `nginx -s reload` does, without the time to start a program.
        kill_process(self.pid(), Signal::HUP).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap()).unwrap()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Unlike a kill, this ends nginx's workers too.
        let _ = kill_process(self.pid(), Signal::TERM);
        let _ = self.process.wait();
    }
}

fn configure(dir: &Path, listen: SocketAddr, app: SocketAddr) {
    let configuration = format!(
        "daemon off; worker_processes 2; pid nginx.pid; error_log error.log crit;
         events {{ worker_connections 4096; }}
         http {{
           access_log off; keepalive_requests 1000000;
           client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
           uwsgi_temp_path uwsgi; scgi_temp_path scgi;
           upstream app {{ server {app}; keepalive 64; }}
           server {{
             listen {listen};
             location / {{
               proxy_pass http://app; proxy_http_version 1.1;
               proxy_set_header Connection ''; proxy_set_header Host $host;
               proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
             }}
           }}
         }}\n"
    );
    std::fs::write(dir.join("nginx.conf"), configuration).unwrap();
}
