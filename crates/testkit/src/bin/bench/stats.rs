//! Medians, and the clocks of a thread and of the process.

use rustix::time::{ClockId, clock_gettime};

/// The middle of the values, or the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _even => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// This thread's processor time, in microseconds.
pub fn thread_time_us() -> f64 {
    cpu_time_us(ClockId::ThreadCPUTime)
}

/// The processor time of all threads of this process, in microseconds.
pub fn process_time_us() -> f64 {
    cpu_time_us(ClockId::ProcessCPUTime)
}

fn cpu_time_us(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// The value that this share of all values does not exceed: the nearest rank.
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}
