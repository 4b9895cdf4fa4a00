//! Child processes: each in a process group of its own, its output in a file, ended when dropped and when we die.

use crate::failure::{Failure, Outcome, While, tail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

/// How long a process may take to end itself after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A running process that we started.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`, appending what it prints to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Outcome<Self> {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .while_(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A Ctrl-C at the terminal reaches us alone; we then end our children in order.
        command.process_group(0);
        #[cfg(target_os = "linux")]
        {
            // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and allocates nothing.
            unsafe {
                command.pre_exec(|| {
                    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                        .map_err(io::Error::from)
                });
            }
        }
        let child = spawn_from_lasting_thread(command).while_(|| format!("starting {name}"))?;
        Ok(Self { name: name.into(), log: log.into(), child })
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The status with which it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until `ready` says so; fails if the process ends first or `within` passes.
    pub fn wait_until(
        &mut self,
        within: Duration,
        what: &str,
        mut ready: impl FnMut() -> bool,
    ) -> Outcome<()> {
        let start = Instant::now();
        loop {
            if ready() {
                return Ok(());
            }
            if let Some(status) = self.exited() {
                return Err(
                    Failure::new(format!("{} ended ({status}) before {what}", self.name)).with_log(&self.log)
                );
            }
            if start.elapsed() > within {
                return Err(
                    Failure::new(format!("{}: not {what} within {within:?}", self.name)).with_log(&self.log)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal to the process and its children.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may be gone already: then there is nothing to signal.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Asks it to end, insists after a while, and waits for it.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        if let Some(status) = self.exited() {
            return Some(status);
        }
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        let start = Instant::now();
        while start.elapsed() < GRACE {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::KILL);
        self.child.wait().ok()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The parent-death signal is sent when the *thread* that started the child ends, and test threads end with their test
/// while a shared gateway lives on. So all children are started from one thread that lasts as long as the process.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (send, receive) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in receive {
                // Whoever asked waits for the answer; if it is gone, the child is dropped and reaped at our end.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(send)
    });
    let (send, receive) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    spawner.lock().map_err(|_| gone())?.send((command, send)).map_err(|_| gone())?;
    receive.recv().map_err(|_| gone())?
}
