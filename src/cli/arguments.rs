//! Arguments that several commands share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::settings::Inputs;
use crate::config::Train;
use crate::device::places::{Places, Rounding};
use crate::device::recorded::Graphs;
use crate::device::{self, Device, Request};
use crate::error::{Code, Error, Result};

/// Where libraries and caches lie on this computer.
pub fn places() -> Places {
    Places::new(|name| std::env::var_os(name))
}

/// Where settings come from besides the command's own flags.
#[derive(clap::Args, Clone, Default)]
pub struct SettingFlags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one configuration key; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

impl SettingFlags {
    /// All layers below the command's own flags.
    pub fn inputs(&self) -> Inputs {
        let home = std::env::var_os("XDG_CONFIG_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME").filter(|v| !v.is_empty())?).join(".config")));
        let ours = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            let name = name.to_str().filter(|name| name.starts_with("HARDNEG_"))?.to_string();
            Some((name, value.to_string_lossy().into_owned()))
        };
        let mut environment: Vec<(String, String)> = std::env::vars_os().filter_map(ours).collect();
        environment.sort();
        let user_file = home.map(|h| h.join("hardneg/config.toml")).filter(|p| p.is_file());
        Inputs { user_file, environment, ..self.typed() }
    }

    /// What was said on the command line alone.
    pub fn typed(&self) -> Inputs {
        Inputs { config_file: self.config.clone(), sets: self.sets.clone(), ..Inputs::default() }
    }
}

/// Where and with how many threads to compute; neither changes a result on the plain path.
#[derive(clap::Args, Clone)]
pub struct Machine {
    /// `auto`, `host`, `cuda`, `cuda:N` or `emulator`
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads of the plain path; 0: one per processor
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

impl Machine {
    /// Opens the device and sets the threads; the text says why `auto` did not find a GPU.
    pub fn open(&self) -> Result<(Device, Option<String>)> {
        self.open_for(&Train::default())
    }
    /// As [`Machine::open`], with products rounded as a configuration says, and steps recorded if it insists.
    pub fn open_for(&self, train: &Train) -> Result<(Device, Option<String>)> {
        let (device, why) = self.open_unrecorded(train)?;
        Ok((if train.graph == "yes" { recording(device, train)? } else { device }, why))
    }
    /// As [`Machine::open_for`], for whoever has to see whether a run fits before [`recording`] takes memory.
    pub fn open_unrecorded(&self, train: &Train) -> Result<(Device, Option<String>)> {
        let rounding: Rounding = train.rounding.parse()?;
        self.set_threads()?;
        let (device, why) = device::open(self.device.parse::<Request>()?, &Places { rounding, ..places() })?;
        if let Device::Machine(_) = &device {
            return Ok((device, why));
        }
        let idle = [
            (rounding != Rounding::F32, "`train.rounding` has no effect on the plain path, which computes in full f32"),
            (train.graph == "yes", "`train.graph` has no effect on the plain path, which records nothing"),
        ];
        match idle.into_iter().find(|(asked, _)| *asked) {
            Some((_, what)) => {
                let error = why.iter().fold(Error::new(Code::C0203, what), |e, why| e.note(why.clone()));
                Err(error.help("train with `--device cuda`, or leave the setting away"))
            }
            None => Ok((device, why)),
        }
    }
    pub fn set_threads(&self) -> Result<()> {
        if self.threads > 4096 {
            return Err(Error::new(Code::C0202, format!("`--threads {}` is more than 4096", self.threads)));
        }
        // A second call in one process keeps the first pool; results do not depend on it.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build_global();
        Ok(())
    }
}

/// `device`, its steps recorded as a configuration says.
pub fn recording(device: Device, train: &Train) -> Result<Device> {
    match train.graph.as_str() {
        "yes" => device.recording(Graphs::Always),
        "auto" => device.recording(Graphs::IfFaster),
        _ => Ok(device),
    }
}

/// Seconds from `90`, `90s`, `15m`, `2h` or `1d`.
pub fn seconds(text: &str) -> std::result::Result<f64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        other => return Err(format!("`{other}` is not s, m, h or d")),
    };
    let number = digits.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
    number.map(|x| x * unit).ok_or_else(|| format!("`{text}` is not a time such as 90s, 15m or 2h"))
}

/// Bytes from `80G`, `1.5T`, `512M`, `64K` or a plain number; the letters are powers of 1024.
pub fn bytes(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match text[digits.len()..].to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => Some(0),
        "k" => Some(1),
        "m" => Some(2),
        "g" => Some(3),
        "t" => Some(4),
        _ => None,
    };
    let value = digits.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
    match power.zip(value).map(|(power, value)| value * 1024f64.powi(power)) {
        Some(bytes) if (1.0..=1e18).contains(&bytes) => Ok(bytes as u64),
        _ => Err(Error::new(Code::C0202, format!("`--memory {text}` is not a size")).help("use a number, 512M, 80G or 1.5T")),
    }
}

/// A number of things, `10000` or `1e4`, of at least `least`; `flag` as it was given, such as `--items`.
pub fn count(flag: &str, text: &str, least: u32) -> Result<usize> {
    let value: f64 = text.trim().parse().unwrap_or(f64::NAN);
    match value.fract() == 0.0 && (f64::from(least)..=4e9).contains(&value) {
        true => Ok(value as usize),
        false => Err(Error::new(Code::C0202, format!("`{flag} {text}` is not a number of {}", flag.trim_start_matches('-')))
            .help(format!("whole numbers from {least} to 4e9, like 10000 or 1e6"))),
    }
}

/// Signals that ask to stop: SIGINT, SIGTERM, SIGHUP. Until [`Stop::arm`] the first one ends the program at once with
/// 128 + its number; afterwards the first sets the flag and the second ends the program.
pub struct Stop {
    asked: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
}

impl Stop {
    pub fn install() -> Result<Stop> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
        let stop = Stop { asked: Arc::default(), at_once: Arc::new(AtomicBool::new(true)) };
        let failed = |e: std::io::Error| Error::internal(format!("installing a signal handler: {e}"));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.at_once.clone()).map_err(failed)?;
            signal_hook::flag::register(signal, stop.asked.clone()).map_err(failed)?;
            signal_hook::flag::register(signal, stop.at_once.clone()).map_err(failed)?;
        }
        // Beyond a file size limit writes shall fail like on a full disk, instead of killing the process.
        signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(failed)?;
        Ok(stop)
    }
    /// From here on a first signal stops at a checkpoint.
    pub fn arm(&self) {
        self.at_once.store(false, Ordering::SeqCst);
    }
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, seconds};

    #[test]
    fn times_have_units() {
        for (text, expected) in [("90", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("1d", 86400.0), ("0s", 0.0)] {
            assert_eq!(seconds(text), Ok(expected));
        }
        for bad in ["", "h", "-1s", "2w", "nan", "1e999"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [("80G", 80 << 30), ("512m", 512 << 20), ("1.5K", 1536), ("64", 64), ("2GiB", 2 << 30)] {
            assert_eq!(bytes(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "G", "-1G", "2X", "nan", "1e99"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_are_whole() {
        let items = |text| count("--items", text, 2);
        assert_eq!((items("1e6").unwrap(), items("37").unwrap()), (1_000_000, 37));
        for bad in ["1", "1.5", "x", "1e12", "nan"] {
            assert!(items(bad).is_err(), "{bad}");
        }
    }
}
