//! Processor time as the kernel counts it, of processes and of some threads of this one. In clock ticks, usually of 10 ms: so only over
//! a whole measurement.

use std::fs;

use anyhow::Context as _;

/// Processor time of a process so far, all its threads together, in milliseconds.
pub fn of_process(id: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    ms(&stat).with_context(|| format!("/proc/{id}/stat has no times"))
}

/// Processor time so far of this process's threads whose names begin so, in milliseconds.
pub fn of_threads(prefix: &str) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for thread in fs::read_dir("/proc/self/task")? {
        // One that ended in between has none.
        let Ok(stat) = fs::read_to_string(thread?.path().join("stat")) else { continue };
        let name = stat.split_once('(').map_or("", |(_, rest)| rest);
        if name.starts_with(prefix) {
            sum += ms(&stat).context("a thread's stat has no times")?;
        }
    }
    Ok(sum)
}

/// Fields 14 and 15, in user mode and in the kernel. The second field is a name in brackets, which may hold anything.
fn ms(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    let (user, kernel) = (next()?, next()?);
    Some((user + kernel) * 1_000.0 / rustix::param::clock_ticks_per_second() as f64)
}
