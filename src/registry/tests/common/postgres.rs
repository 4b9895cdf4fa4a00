//! A PostgreSQL server of the tests' own: the machine's, or the one that `tests/tools/install.sh postgres` puts into .tools/ (without
//! TLS). One for a test process, a schema for a test. It ends, and its folder goes, when the test process ends, however that ends.

use registry::certificates;
use registry::store::postgres::PostgresUrl;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// PostgreSQL does not run as root: nobody's number, and its group's.
const NOBODY: u32 = 65_534;
pub const PASSWORD: &str = "canary-password";

/// Waits for its standard input to end, as it does when whoever started it is gone; then stops the server. The signal that ends one at
/// once is the last resort, so that nothing ever stays behind.
const KEEPER: &str = r#"
"$@" >"$LOG" 2>&1 & server=$!
cat >/dev/null
kill -"$(cat "$HOW" 2>/dev/null || echo QUIT)" $server 2>/dev/null
wait $server
[ -e "$HOW" ] || rm -rf "$FOLDER"
"#;

pub struct Server {
    bin: PathBuf,
    folder: PathBuf,
    pub port: u16,
    pub has_tls: bool,
    keeper: Mutex<Option<Child>>,
}

/// The folder of `postgres`, and whether that one has TLS.
pub fn binaries() -> (PathBuf, bool) {
    let output = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let mut places: Vec<PathBuf> =
        output(Command::new("pg_config").arg("--bindir")).into_iter().map(PathBuf::from).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    // Debian keeps servers off the PATH, one folder for each version.
    places.extend(
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|v| v.path().join("bin")),
    );
    if let Some(bin) =
        places.into_iter().find(|place| place.join("initdb").exists() && place.join("postgres").exists())
    {
        return (bin, true);
    }
    // Of the registry's tests, and of the end-to-end tests.
    let tools = ["../../.tools", "../.tools"].map(|tools| Path::new(env!("CARGO_MANIFEST_DIR")).join(tools));
    let pythons = tools
        .iter()
        .filter_map(|tools| fs::read_dir(tools.join("venv-postgres/lib")).ok())
        .flatten()
        .flatten();
    let ours = pythons.map(|python| python.path().join("site-packages/pgserver/pginstall/bin"));
    let bin = ours.into_iter().find(|bin| bin.join("postgres").exists());
    (bin.expect("no PostgreSQL on this machine: run tests/tools/install.sh postgres"), false)
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program of PostgreSQL's, as a user that it agrees to.
pub fn command(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    // Another user is another process to the kernel: the signal at the end of whoever started it is asked for anew.
    command.args(["--pdeathsig", "QUIT"]).arg(program);
    command
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// For what must be the server's own.
pub fn hand_over(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

impl Server {
    /// The one that the tests of this process share.
    pub fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Server::own)
    }

    /// A new one.
    pub fn own() -> Server {
        let (bin, has_tls) = binaries();
        let server = Server::prepare(bin, has_tls);
        let password = server.folder.join("password");
        fs::write(&password, PASSWORD).unwrap();
        hand_over(&password);
        run(command(&server.bin.join("initdb"))
            .args([
                "--auth=scram-sha-256",
                "--username=membrane",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(server.data()));
        server.start();
        server
    }

    fn prepare(bin: PathBuf, has_tls: bool) -> Server {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let folder = dir.keep();
        hand_over(&folder);
        if has_tls {
            let now = fs::metadata(&folder).unwrap().modified().unwrap();
            let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let (ca_key, key) = (certificates::new_key().unwrap(), certificates::new_key().unwrap());
            let ca = certificates::authority(&ca_key, now).unwrap();
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let purpose = certificates::Purpose::Server;
            let certificate = certificates::issue(&ca, &ca_key, &key, purpose, names, now).unwrap();
            fs::write(folder.join("ca.pem"), ca).unwrap();
            fs::write(folder.join("server.pem"), certificate).unwrap();
            let path = folder.join("server-key.pem");
            fs::write(&path, key.as_bytes()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            hand_over(&path);
        }
        // Free now; whoever takes it in between makes the start fail, which says so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Server { bin, folder, port, has_tls, keeper: Mutex::new(None) }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts it, anew if it was stopped, and waits until it answers.
    pub fn start(&self) {
        let _ = fs::remove_file(self.folder.join("how"));
        let setting = |name: &str, value: &str| ["-c".to_owned(), format!("{name}={value}")];
        let mut settings = vec![
            setting("listen_addresses", "127.0.0.1,127.0.0.2"),
            setting("port", &self.port.to_string()),
            setting("unix_socket_directories", ""),
            setting("max_connections", "300"),
            setting("shared_buffers", "32MB"),
            // In its own folder, so that one that is stopped at once leaves nothing behind.
            setting("dynamic_shared_memory_type", "mmap"),
        ];
        if self.has_tls {
            let file = |name: &str| self.folder.join(name).to_str().unwrap().to_owned();
            settings.push(setting("ssl", "on"));
            settings.push(setting("ssl_cert_file", &file("server.pem")));
            settings.push(setting("ssl_key_file", &file("server-key.pem")));
        }
        let server = command(&self.bin.join("postgres"));
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(server.get_program())
            .args(server.get_args())
            .arg("-D")
            .arg(self.data())
            .args(settings.iter().flatten())
            .env("LOG", self.folder.join("log"))
            .env("HOW", self.folder.join("how"))
            .env("FOLDER", &self.folder)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        *self.keeper.lock().unwrap() = Some(keeper);
        for _ in 0..600 {
            let mut ready = Command::new(self.bin.join("pg_isready"));
            let port = self.port.to_string();
            let ready = ready.args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap();
            if ready.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("PostgreSQL did not start: {}", fs::read_to_string(self.folder.join("log")).unwrap());
    }

    /// As a power cut, but for what the kernel already has: no checkpoint, no farewell.
    pub fn stop_at_once(&self) {
        fs::write(self.folder.join("how"), "QUIT").unwrap();
        let mut keeper = self.keeper.lock().unwrap().take().unwrap();
        drop(keeper.stdin.take());
        keeper.wait().unwrap();
    }

    /// A copy of this server as it is now, which follows nobody and waits to be promoted.
    pub fn standby(&self) -> Server {
        let copy = Server::prepare(self.bin.clone(), false);
        run(command(&self.bin.join("pg_basebackup"))
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "membrane",
                "-X",
                "stream",
                "-c",
                "fast",
                "-p",
                &self.port.to_string(),
                "-D",
            ])
            .arg(copy.data())
            .env("PGPASSWORD", PASSWORD));
        fs::write(copy.data().join("standby.signal"), "").unwrap();
        hand_over(&copy.data().join("standby.signal"));
        copy.start();
        copy
    }

    pub fn promote(&self) {
        run(command(&self.bin.join("pg_ctl")).args(["promote", "-w", "-D"]).arg(self.data()));
    }

    pub fn pg_dump(&self) -> PathBuf {
        self.bin.join("pg_dump")
    }

    /// The URL of an empty schema.
    pub fn schema(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let schema = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql("public", &format!("CREATE SCHEMA {schema}"));
        self.url(&schema)
    }

    pub fn url(&self, schema: &str) -> String {
        let tls = if self.has_tls {
            format!("sslrootcert={}", self.folder.join("ca.pem").display())
        } else {
            "sslmode=disable".to_owned()
        };
        let port = self.port;
        format!(
            "postgres://membrane:{PASSWORD}@localhost:{port}/postgres?{tls}&options=-csearch_path%3D{schema}"
        )
    }

    /// Without TLS; a second server may stand in for this one.
    pub fn plain(&self, schema: &str, other: Option<u16>) -> PostgresUrl {
        let other = other.map_or(String::new(), |port| format!(",localhost:{port}"));
        let port = self.port;
        parse(&format!(
            "postgres://membrane:{PASSWORD}@localhost:{port}{other}/postgres?sslmode=disable&options=-csearch_path%3D{schema}"
        ))
    }

    /// Runs SQL in a schema.
    pub fn sql(&self, schema: &str, sql: &str) -> Vec<Vec<String>> {
        let output = Command::new(self.bin.join("psql"))
            .args([
                "-h",
                "localhost",
                "-U",
                "membrane",
                "-AtX",
                "-v",
                "ON_ERROR_STOP=1",
                "-p",
                &self.port.to_string(),
            ])
            .args(["-d", "postgres", "-c", sql])
            .env("PGPASSWORD", PASSWORD)
            .env("PGOPTIONS", format!("-csearch_path={schema}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.lock().unwrap().take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

pub fn parse(url: &str) -> PostgresUrl {
    PostgresUrl::parse(url, |_| None).unwrap()
}
