//! Row-wise Adagrad: for a table, one number a row instead of two an element.
//!
//! ```text
//! g_r = scale grad_r        s_r = s_r + mean over the row of g_r^2
//! x_r = (1 - lr decay) x_r - lr g_r / (sqrt(s_r) + eps)                 for every row r the step touches
//! ```
//!
//! Source: Duchi, Hazan and Singer (JMLR 2011); the form by row is the exact row-wise Adagrad of FBGEMM, which trains the
//! tables of DLRM (Naumov et al., 2019), with its decoupled decay.
//!
//! There is no momentum, and `s` only grows, so rows that are met often move less and less; rare rows keep their rate. A row
//! that is not touched is left as it is: neither moved nor decayed, and no decay is caught up when it is touched again, for
//! which the step that touched it last would have to be kept. So a table's state is 4 bytes a row, not the 8 an element of
//! AdamW, and its decay works by touch and not by step, more weakly on rare rows than that of lazy rows (`adamw.rs`).

use rayon::prelude::*;

use crate::device::{Arg, Buffer, Grid, Kernel, Real, Runtime};
use crate::error::Result;
use crate::ops::param::Param;
use crate::ops::touched::RowsThere;
use crate::optim::Now;

/// Rows of one task.
const ROWS: usize = 256;

/// The rule's constant.
pub struct Adagrad {
    pub eps: f64,
}

impl Adagrad {
    /// Updates the given rows of a table (ascending, distinct), or all, and clears their gradient; `sums (V)`.
    pub fn update<T: Real>(&self, param: &mut Param, sums: &mut Buffer, rows: Option<&[u32]>, now: Now) -> Result<()> {
        let width = width(param);
        if width == 0 {
            return Ok(());
        }
        let (mut x, mut grad) = (T::of_mut(&mut param.value)?, T::of_mut(&mut param.grad)?);
        let mut sums = T::of_mut(sums)?;
        let every: Vec<u32>;
        let rows = match rows {
            Some(rows) => rows,
            None => {
                every = (0..sums.len() as u32).collect();
                &every
            }
        };
        // Each task owns the stretch of the table that its rows lie in.
        let (mut tasks, mut start) = (Vec::with_capacity(rows.len() / ROWS + 1), 0);
        for rows in rows.chunks(ROWS) {
            let end = rows[rows.len() - 1] as usize + 1;
            let own;
            (own, x) = x.split_at_mut((end - start) * width);
            let own_grad;
            (own_grad, grad) = grad.split_at_mut((end - start) * width);
            let own_sums;
            (own_sums, sums) = sums.split_at_mut(end - start);
            tasks.push((start, rows, own, own_grad, own_sums));
            start = end;
        }
        tasks.into_par_iter().for_each(|(start, rows, x, grad, sums)| {
            for row in rows.iter().map(|&row| row as usize - start) {
                let range = row * width..(row + 1) * width;
                self.move_row(&mut x[range.clone()], &mut grad[range], &mut sums[row], now);
            }
        });
        Ok(())
    }

    fn move_row<T: Real>(&self, x: &mut [T], grad: &mut [T], sum: &mut T, now: Now) {
        let [scale, keep, lr, eps] = self.factors(now).map(T::from_f64);
        let squares = grad.iter().fold(T::ZERO, |squares, &g| squares + g * scale * (g * scale));
        *sum += squares / T::from_f64(x.len() as f64);
        let rate = lr / (sum.sqrt() + eps);
        for (x, g) in x.iter_mut().zip(grad) {
            *x = keep * *x - rate * (*g * scale);
            *g = T::ZERO;
        }
    }

    /// scale, keep, lr and eps of the formula.
    fn factors(&self, now: Now) -> [f64; 4] {
        [now.scale, 1.0 - now.lr * now.decay, now.lr, self.eps]
    }

    /// [`Adagrad::update`] in a machine's memory, where the clipping `factor (1)` is, too: `now.scale` is not looked at.
    pub fn launch(
        &self,
        runtime: &dyn Runtime,
        param: &mut Param,
        sums: &mut Buffer,
        rows: Option<RowsThere>,
        factor: &Buffer,
        now: Now,
    ) -> Result<()> {
        let (width, most) = (width(param), rows.map_or(sums.len(), |rows| rows.most));
        if width == 0 || most == 0 {
            return Ok(());
        }
        let mut args = vec![Arg::Out(&mut param.value), Arg::Out(sums), Arg::Out(&mut param.grad)];
        let [ids, count] = rows.map_or([Arg::None, Arg::None], |rows| [rows.ids, rows.count].map(Arg::In));
        args.extend([Arg::In(factor), ids, count]);
        args.extend([most as u32, width as u32].map(Arg::U32));
        args.extend(self.factors(now)[1..].iter().map(|&x| Arg::F32(x as f32)));
        runtime.launch(&Kernel::new("adagrad", "adagrad_rows", &[]), Grid::row(most.div_ceil(8), 256), &mut args)
    }
}

fn width(param: &Param) -> usize {
    param.len() / param.shape[0].max(1)
}
