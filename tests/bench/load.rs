//! The load generator: one thread, connections that are kept alive, request bytes that are fixed but for the bearer. It spends some
//! three microseconds on a request, a tenth of what Envoy does, so that Envoy is the bottleneck.

use harness::{Failure, Outcome};
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Connections that are open at a time.
pub(crate) const CONNECTIONS: usize = 16;
/// Longer than any answer takes: then something is broken, not slow.
const LOST: Duration = Duration::from_secs(10);
const TIMER: Token = Token(usize::MAX);

/// The requests to send: `head`, the next of the bearers, `tail`.
pub(crate) struct Requests<'a> {
    pub(crate) head: Vec<u8>,
    pub(crate) tail: Vec<u8>,
    pub(crate) bearers: &'a [String],
    next: usize,
}

impl<'a> Requests<'a> {
    /// Requests for `/` with each of the bearers in turn, and this body. The same bytes go to every Envoy.
    pub(crate) fn new(method: &str, headers: &str, body: &[u8], bearers: &'a [String]) -> Self {
        let head = format!(
            "{method} / HTTP/1.1\r\nhost: gateway.example\r\nuser-agent: bench/1\r\naccept: */*\r\n\
             accept-encoding: gzip, br\r\n{headers}authorization: Bearer "
        );
        let length = if method == "GET" {
            "\r\n\r\n".into()
        } else {
            format!("\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len())
        };
        Self { head: head.into(), tail: [length.as_bytes(), body].concat(), bearers, next: 0 }
    }

    fn turn(&mut self) -> usize {
        let turn = self.next;
        self.next = (self.next + 1) % self.bearers.len();
        turn
    }
}

/// What one run did.
pub(crate) struct Ran {
    pub(crate) requests: u64,
    pub(crate) elapsed: Duration,
}

struct Connection {
    stream: TcpStream,
    bearer: usize,
    sent: usize,
    unread: Vec<u8>,
    busy: bool,
    /// When it should have been sent.
    due: Instant,
}

impl Connection {
    /// Sends as much as the socket takes.
    fn write(&mut self, requests: &Requests<'_>) -> Outcome<()> {
        let bearer = requests.bearers[self.bearer].as_bytes();
        let parts = [&requests.head[..], bearer, &requests.tail];
        let total: usize = parts.iter().map(|part| part.len()).sum();
        while self.busy && self.sent < total {
            let mut skip = self.sent;
            let slices = parts.map(|part| {
                let from = skip.min(part.len());
                skip -= from;
                IoSlice::new(&part[from..])
            });
            match self.stream.write_vectored(&slices) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether the answer is there, whole.
    fn read(&mut self, buffer: &mut [u8]) -> Outcome<bool> {
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Err(Failure::new("Envoy closed a connection")),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            self.unread.extend_from_slice(&buffer[..read]);
            if is_whole(&self.unread)? {
                self.unread.clear();
                self.busy = false;
                return Ok(true);
            }
            if read < buffer.len() {
                return Ok(false);
            }
        }
    }
}

/// Fails on anything but a 200.
fn is_whole(answer: &[u8]) -> Outcome<bool> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    if answer.get(9..12) != Some(b"200") {
        return Err(Failure::new(format!("an answer other than 200: {}", String::from_utf8_lossy(answer))));
    }
    const LENGTH: &[u8] = b"\r\ncontent-length: ";
    let digits = answer[..end].windows(LENGTH.len()).position(|part| part == LENGTH);
    let digits = digits.map(|at| &answer[at + LENGTH.len()..end]).unwrap_or_default();
    let length = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    Ok(answer.len() >= end + 4 + length)
}

struct Engine<'r, 'a> {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    requests: &'r mut Requests<'a>,
    buffer: Vec<u8>,
}

impl<'r, 'a> Engine<'r, 'a> {
    fn connect(port: u16, requests: &'r mut Requests<'a>, connections: usize) -> Outcome<Self> {
        let poll = Poll::new()?;
        let mut all = Vec::new();
        for index in 0..connections {
            let stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            let (unread, due) = (Vec::new(), Instant::now());
            all.push(Connection { stream, bearer: 0, sent: 0, unread, busy: false, due });
        }
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            connections: all,
            requests,
            buffer: vec![0; 16_384],
        })
    }

    fn begin(&mut self, index: usize, due: Instant) -> Outcome<()> {
        let bearer = self.requests.turn();
        let connection = &mut self.connections[index];
        (connection.bearer, connection.sent, connection.busy, connection.due) = (bearer, 0, true, due);
        connection.write(self.requests)
    }

    /// Waits, and calls `done` with each connection whose answer came; tells whether the timer went off.
    fn turn(&mut self, mut done: impl FnMut(&mut Self, usize) -> Outcome<()>) -> Outcome<bool> {
        self.poll.poll(&mut self.events, Some(LOST))?;
        if self.events.is_empty() {
            return Err(Failure::new(format!("no answer within {LOST:?}")));
        }
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        let mut timer = false;
        for index in ready {
            if index == TIMER.0 {
                timer = true;
                continue;
            }
            let connection = &mut self.connections[index];
            connection.write(self.requests)?;
            if connection.busy && connection.read(&mut self.buffer)? {
                done(self, index)?;
            }
        }
        Ok(timer)
    }
}

/// The next request on a connection as soon as the last one's answer has come, until the time is over or so many are sent.
pub(crate) fn closed(port: u16, requests: &mut Requests<'_>, time: Duration, at_most: u64) -> Outcome<Ran> {
    let mut engine = Engine::connect(port, requests, CONNECTIONS)?;
    let start = Instant::now();
    let (mut begun, mut ended) = (0u64, 0u64);
    for index in 0..CONNECTIONS {
        if begun < at_most {
            begun += 1;
            engine.begin(index, start)?;
        }
    }
    while ended < begun {
        engine.turn(|engine, index| {
            ended += 1;
            if begun < at_most && start.elapsed() < time {
                begun += 1;
                engine.begin(index, start)?;
            }
            Ok(())
        })?;
    }
    Ok(Ran { requests: ended, elapsed: start.elapsed() })
}

/// A request every so often, whatever became of those before; how long each took from when it was due, so that one that had to wait for
/// a slow one counts as slow too.
pub(crate) fn at_rate(
    port: u16,
    requests: &mut Requests<'_>,
    rate: f64,
    time: Duration,
) -> Outcome<Vec<Duration>> {
    let connections = CONNECTIONS * 4;
    let mut engine = Engine::connect(port, requests, connections)?;
    let interval = Duration::from_secs_f64(1.0 / rate);
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)
        .map_err(std::io::Error::from)?;
    let every = Timespec { tv_sec: 0, tv_nsec: i64::from(interval.subsec_nanos()) };
    let spec = Itimerspec { it_interval: every, it_value: every };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).map_err(std::io::Error::from)?;
    let fd = timer.as_raw_fd();
    engine.poll.registry().register(&mut SourceFd(&fd), TIMER, Interest::READABLE)?;

    let start = Instant::now();
    let total = (time.as_secs_f64() * rate) as u32;
    let mut idle: Vec<usize> = (0..connections).collect();
    let mut due: VecDeque<Instant> = VecDeque::new();
    let mut took = Vec::with_capacity(total as usize);
    let mut scheduled = 0;
    while took.len() < total as usize {
        let ticked = engine.turn(|engine, index| {
            took.push(engine.connections[index].due.elapsed());
            idle.push(index);
            Ok(())
        })?;
        if ticked {
            // How often it went off does not matter: the clock tells what is due.
            let mut count = [0; 8];
            let _ = rustix::io::read(&timer, &mut count);
        }
        while scheduled < total && start.elapsed() >= interval * (scheduled + 1) {
            scheduled += 1;
            due.push_back(start + interval * scheduled);
        }
        while let (Some(_), Some(&index)) = (due.front(), idle.last()) {
            let when = due.pop_front().unwrap_or(start);
            idle.pop();
            engine.begin(index, when)?;
        }
    }
    Ok(took)
}
