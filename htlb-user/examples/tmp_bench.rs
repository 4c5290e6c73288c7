fn main() {
    let w = std::env::args().nth(1).unwrap_or_default();
    use htlb_user::bench::machine as m;
    if w.contains('a') {
        println!("acquire {:?}", m::acquire_vs_mmap());
    }
    if w.contains('p') {
        println!("populate {:?}", m::populate_vs_map_populate(1 << 30));
    }
    if w.contains('f') {
        println!("free {:?}", m::free_growth());
    }
    if w.contains('r') {
        println!("reserve {:?}", m::reserve_vs_linux(7900));
    }
    if w.contains('c') {
        println!("chase {:?}", m::random_read_2m_vs_4k(1 << 30));
    }
}
