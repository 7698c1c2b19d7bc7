use std::time::Instant;
fn main() {
    for par in [gemm::Parallelism::None, gemm::Parallelism::Rayon(2)] {
        for (m, n, k) in [(512usize, 1536usize, 576usize), (512, 576, 1536), (512, 192, 576), (32, 1024, 64), (32, 64, 1024), (64, 49152, 576), (170, 49152, 576), (1024, 1536, 576), (1, 1536, 576)] {
            let a = vec![0.5f32; m * k]; let b = vec![0.25f32; n * k]; let mut c = vec![0f32; m * n];
            let reps = (2e9 / (2.0 * (m * n * k) as f64)).ceil() as usize;
            let mut s = f64::MAX;
            for _ in 0..reps.clamp(20, 400) { let t = Instant::now(); unsafe { gemm::gemm(m, n, k, c.as_mut_ptr(), 1, n as isize, false, a.as_ptr(), 1, k as isize, b.as_ptr(), k as isize, 1, 0.0, 1.0, false, false, false, par); } s = s.min(t.elapsed().as_secs_f64()); }
            println!("{par:?} {m}x{n}x{k}: {:.1} GFLOPS", 2.0 * (m * n * k) as f64 / s / 1e9);
        }
    }
    let x: Vec<f32> = (0..1 << 20).map(|i| -(i as f32) / 1e5).collect();
    let t = Instant::now(); let s: f32 = x.iter().map(|v| v.exp()).sum(); println!("exp f32 {:.2} ns {s}", t.elapsed().as_secs_f64() * 1e9 / x.len() as f64);
    let t = Instant::now(); let s: f64 = x.iter().map(|v| f64::from(*v).exp()).sum(); println!("exp f64 {:.2} ns {s}", t.elapsed().as_secs_f64() * 1e9 / x.len() as f64);
}
