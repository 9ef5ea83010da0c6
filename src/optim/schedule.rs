//! The learning rate of each step: a linear warm-up, then constant, linear to zero, or half a cosine to zero.
//!
//! ```text
//! step t = 1, 2, ...    warm-up:  lr t / warmup                        while t <= warmup
//! x = (t - 1 - warmup) / (total - warmup)                              afterwards, clamped to 0 .. 1
//! constant: lr     linear: lr (1 - x)     cosine: lr (1 + cos(pi x)) / 2      (Loshchilov and Hutter, ICLR 2017)
//! ```

use crate::config;
use crate::error::{Code, Error, Result};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Constant,
    Linear,
    Cosine,
}

#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    shape: Shape,
    lr: f64,
    warmup: u64,
    total: u64,
}

impl Schedule {
    /// For a run of `total` steps. C0202: unknown schedule, or a rate that is not a positive number.
    pub fn new(config: &config::Optim, total: u64) -> Result<Schedule> {
        let shape = match super::choice("schedule", &config.schedule, &["constant", "linear", "cosine"])? {
            "linear" => Shape::Linear,
            "cosine" => Shape::Cosine,
            _ => Shape::Constant,
        };
        if !(config.lr > 0.0 && config.lr.is_finite()) {
            return Err(Error::new(Code::C0202, format!("`optim.lr = {}` is out of range", config.lr))
                .help("use a number above 0; 1e-3 is usual"));
        }
        Ok(Schedule { shape, lr: config.lr, warmup: config.warmup_steps, total })
    }

    /// The rate of `step`, which counts from 1.
    pub fn at(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.lr * step as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1);
        let x = ((step - 1 - self.warmup) as f64 / length as f64).min(1.0);
        match self.shape {
            Shape::Constant => self.lr,
            Shape::Linear => self.lr * (1.0 - x),
            Shape::Cosine => self.lr * 0.5 * (1.0 + (std::f64::consts::PI * x).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(schedule: &str, warmup_steps: u64, total: u64, step: u64) -> f64 {
        let config = config::Optim { schedule: schedule.into(), warmup_steps, lr: 2.0, ..config::Optim::default() };
        Schedule::new(&config, total).unwrap().at(step)
    }

    #[test]
    fn each_shape_passes_its_known_points() {
        assert_eq!(at("constant", 0, 10, 1), 2.0);
        assert_eq!(at("constant", 4, 10, 1), 0.5);
        for shape in ["constant", "linear", "cosine"] {
            assert_eq!(at(shape, 4, 10, 4), 2.0);
            assert_eq!(at(shape, 4, 10, 5), 2.0);
        }
        assert_eq!(at("linear", 0, 10, 6), 1.0);
        assert!((at("cosine", 0, 10, 6) - 1.0).abs() < 1e-15);
        assert_eq!(at("linear", 4, 10, 11), 0.0);
        // Beyond the plan, and a warm-up longer than the run.
        assert_eq!(at("linear", 0, 10, 1000), 0.0);
        assert_eq!(at("cosine", 20, 10, 10), 1.0);
        assert_eq!(at("linear", 0, 0, 1), 2.0);
    }

    #[test]
    fn rates_that_are_no_rates_are_refused() {
        for lr in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let config = config::Optim { lr, ..config::Optim::default() };
            assert_eq!(Schedule::new(&config, 1).unwrap_err().code(), Code::C0202);
        }
        let config = config::Optim { schedule: "cosin".into(), ..config::Optim::default() };
        assert!(Schedule::new(&config, 1).unwrap_err().to_string().contains("did you mean `cosine`?"));
    }
}
