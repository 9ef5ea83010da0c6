//! The emulator's own tests: kernels right and wrong, written here, run under every schedule and fully checked.

use super::*;
use crate::device::{download, upload};

fn cache() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels")
}

fn emulator(text: &str, checked: bool, schedule: Schedule) -> Arc<Emulator> {
    let extra_sources = vec![("test".to_string(), text.to_string())];
    Emulator::open(&Options { checked, schedule, extra_sources, ..Options::new(cache()) }).unwrap()
}

#[test]
fn a_kernel_runs() {
    let text = r#"
#include "device.cuh"
KERNEL(256, reverse)(float* y, const float* x, u32 n, float scale) {
  SHARED(float, s_tile, [WIDTH]);
  u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  s_tile[threadIdx.x] = i < n ? x[i] * scale : 0.0f;
  __syncthreads();
  if (i < n) y[i] = s_tile[blockDim.x - 1 - threadIdx.x];
}
"#;
    for (checked, schedule) in
        [(false, Schedule::Forward), (false, Schedule::Reverse), (false, Schedule::Random(5)), (true, Schedule::Forward)]
    {
        let machine = emulator(text, checked, schedule);
        let x: Vec<f32> = (0..512).map(|i| i as f32).collect();
        let x = upload(&*machine, &x).unwrap();
        let mut y = Buffer::machine(machine.alloc(2048).unwrap(), 512);
        let kernel = Kernel::new("test", "reverse", &[("WIDTH", 256)]);
        let args = &mut [Arg::Out(&mut y), Arg::In(&x), Arg::U32(512), Arg::F32(2.0)];
        machine.launch(&kernel, Grid::row(2, 256), args).unwrap();
        let y: Vec<f32> = download(&*machine, &y, 512).unwrap();
        assert!(y.iter().enumerate().all(|(i, &y)| y == 2.0 * (i / 256 * 256 + 255 - i % 256) as f32));
    }
}
