//! A link like WiFi between the devices' side of it, a network namespace, and this machine: 20 Mbit/s and 10 ms each way.
//!
//! ```text
//!   namespace 1: veth ── veth, macvtap :namespace 2: macvtap, veth ── veth :this machine
//!                                 └── relay (this process) ──┘
//! ```
//!
//! Not every kernel has `netem`, so the delay is this process's: it reads whole frames from one macvtap, whose device file needs nothing
//! but reading and writing, and writes them to the other when their time has come. The TCP of both ends is the kernel's, with its
//! windows and its slow start. What the link really does is measured, too.
//!
//! Namespaces and all that is in them end with the two processes that hold them, and those end when this one does, however it does.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use farthing_testkit::wait::until;
use serde_json::{Value, json};

use crate::farthing::Process;
use crate::stats::median;

/// How long a frame takes, one way.
pub const DELAY: Duration = Duration::from_millis(10);
/// How fast frames go, each way.
pub const BITS_PER_S: f64 = 20e6;
/// How many frames may wait: as many as `netem` lets by default.
const MOST_WAITING: usize = 1_000;
/// What a macvtap puts before each frame (`struct virtio_net_hdr`). It goes with the frame, unread.
const HEADER: usize = 10;
const MOST_FRAME: usize = 1 << 16;

/// The argument that makes this program the one that measures the link.
pub const COMMAND: &str = "gateway-link";
const PROBES: usize = 21;
const PROBE_BYTES: usize = 2_500_000;

/// The link.
pub struct Link {
    /// This machine's address on it.
    pub address: String,
    devices: Namespace,
    _middle: Namespace,
    frame_bytes: Arc<AtomicU64>,
}

/// What the link really does.
pub struct Quality {
    /// Of one byte and its echo, in milliseconds: the median.
    pub round_trip_ms: f64,
    /// Of a long message to this machine, in Mbit/s.
    pub mbit_per_s: f64,
}

impl Link {
    /// Makes the link.
    ///
    /// # Errors
    /// When the machine does not allow it; the error says what.
    pub fn make() -> anyhow::Result<Self> {
        let (devices, middle) = (Namespace::new()?, Namespace::new()?);
        // Names and addresses of this run: another may be under way.
        let own = std::process::id();
        let (name, net) = (format!("fbench{own}"), format!("198.18.{}", own % 250));
        let (inner, outer) = (middle.id().to_string(), devices.id().to_string());
        ip(&[
            "link", "add", "name", "veth", "netns", &outer, "type", "veth", "peer", "name", "far", "netns",
            &inner,
        ])?;
        ip(&["link", "add", "name", &name, "type", "veth", "peer", "name", "near", "netns", &inner])?;
        ip(&["addr", "add", &format!("{net}.1/24"), "dev", &name])?;
        ip(&["link", "set", "dev", &name, "up"])?;
        devices.ip(&["addr", "add", &format!("{net}.2/24"), "dev", "veth"])?;
        devices.ip(&["link", "set", "dev", "veth", "up"])?;
        let far = middle.tap("far", own * 2)?;
        let near = middle.tap("near", own * 2 + 1)?;
        let frame_bytes = Arc::new(AtomicU64::new(0));
        relay(far.try_clone()?, near.try_clone()?, frame_bytes.clone());
        relay(near, far, frame_bytes.clone());
        Ok(Self { address: format!("{net}.1"), devices, _middle: middle, frame_bytes })
    }

    /// The same program at the other end of the link.
    pub fn inside(&self, program: &Command) -> Command {
        let mut command = self.devices.command(program.get_program());
        command.args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// Bytes of whole frames so far, both ways: what the radio would carry, acknowledgements included.
    pub fn frame_bytes(&self) -> u64 {
        self.frame_bytes.load(Ordering::Relaxed)
    }

    /// Measures the link, by a process at its other end.
    pub fn quality(&self) -> anyhow::Result<Quality> {
        let listener = TcpListener::bind((self.address.as_str(), 0))?;
        let address = listener.local_addr()?.to_string();
        let echo = thread::spawn(move || answer(&listener.accept()?.0));
        let mut probe = Command::new(std::env::current_exe()?);
        let output = self.inside(probe.args([COMMAND, &address])).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        echo.join().expect("the echo does not panic")?;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let number = |key: &str| said[key].as_f64().with_context(|| format!("{key} was not measured"));
        Ok(Quality { round_trip_ms: number("round_trip_ms")?, mbit_per_s: number("mbit_per_s")? })
    }
}

/// The other end of [`Link::quality`].
pub fn probe(address: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut byte = [0];
    let mut trips = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        let start = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        trips.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let start = Instant::now();
    stream.write_all(&vec![0; PROBE_BYTES])?;
    stream.read_exact(&mut byte)?;
    let mbit_per_s = PROBE_BYTES as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64();
    println!("{}", json!({ "round_trip_ms": median(trips), "mbit_per_s": mbit_per_s }));
    Ok(())
}

fn answer(mut stream: &TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    for _ in 0..PROBES {
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
    stream.read_exact(&mut vec![0; PROBE_BYTES])?;
    Ok(stream.write_all(&byte)?)
}

/// Carries frames one way until the devices are gone. Its threads end with this process.
fn relay(from: File, to: File, frame_bytes: Arc<AtomicU64>) {
    let (sender, waiting) = sync_channel(MOST_WAITING);
    thread::spawn(move || take_in(from, &sender, &frame_bytes));
    thread::spawn(move || let_out(to, &waiting));
}

/// Works out when each frame arrives: behind the one before at the link's rate, and the delay later.
fn take_in(mut from: File, waiting: &SyncSender<(Instant, Vec<u8>)>, frame_bytes: &AtomicU64) {
    let mut free_at = Instant::now();
    let mut frame = vec![0; MOST_FRAME];
    loop {
        let length = match from.read(&mut frame) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // The device is gone.
            Err(_) => return,
        };
        let bytes = length.saturating_sub(HEADER);
        free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 * 8.0 / BITS_PER_S);
        match waiting.try_send((free_at + DELAY, frame[..length].to_vec())) {
            Ok(()) => frame_bytes.fetch_add(bytes as u64, Ordering::Relaxed),
            // Lost, as on any link whose queue is full.
            Err(TrySendError::Full(_)) => continue,
            Err(TrySendError::Disconnected(_)) => return,
        };
    }
}

fn let_out(mut to: File, waiting: &Receiver<(Instant, Vec<u8>)>) {
    for (due, frame) in waiting {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&frame).is_err() {
            return;
        }
    }
}

/// A network namespace, held by a process that ends when its input does.
struct Namespace(Process);

impl Namespace {
    fn new() -> anyhow::Result<Self> {
        let holder = Process::start(
            Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()),
        )?;
        let own = fs::read_link("/proc/self/ns/net")?;
        let path = format!("/proc/{}/ns/net", holder.id());
        until("a network namespace of its own", || match fs::read_link(&path) {
            Ok(link) => Ok((link != own).then_some(())),
            Err(_) => bail!("this machine allows no network namespaces here"),
        })?;
        let namespace = Self(holder);
        namespace.ip(&["link", "set", "dev", "lo", "up"])?;
        Ok(namespace)
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.id())).arg("--").arg(program);
        command
    }

    fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run(self.command("ip").args(arguments))
    }

    /// Opens what goes into and comes out of an interface, as frames. `index` is the system's number for it, in all namespaces.
    fn tap(&self, interface: &str, index: u32) -> anyhow::Result<File> {
        let (name, number) = (format!("{interface}-tap"), index.to_string());
        self.ip(&["link", "set", "dev", interface, "up"])?;
        let kind = ["type", "macvtap", "mode", "passthru"];
        self.ip(&[&["link", "add", "link", interface, "name", &name, "index", &number][..], &kind].concat())?;
        self.ip(&["link", "set", "dev", &name, "up"])?;
        let path = format!("/dev/tap{index}");
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        opened.with_context(|| format!("{path} cannot be opened"))
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let words = command.get_args().map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("`{name}` is not there"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{name} {words}`: {}", said.trim());
    Ok(())
}
