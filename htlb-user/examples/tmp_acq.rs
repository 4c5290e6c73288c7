use htlb_core::HugeSize;
use htlb_user::*;
fn main() {
    let pools = Pools::builder().threads(1).build().unwrap();
    let owner = Owner::new(&pools);
    let mut best = f64::MAX;
    for _ in 0..40 {
        let t = std::time::Instant::now();
        for _ in 0..50000 {
            let mut b = pools
                .buffer(2 << 20)
                .page_size(HugeSize::MIB2)
                .strict()
                .owner(&owner)
                .create()
                .unwrap();
            b.as_mut_slice().unwrap()[0] = 1;
            std::hint::black_box(&b);
        }
        best = best.min(t.elapsed().as_nanos() as f64 / 50000.0);
    }
    println!("{best} ns");
}
