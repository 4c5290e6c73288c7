// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Processes that load, read and remove one name at once.

use super::content;
use super::world::{said, World};

const ROUNDS: usize = 40;

#[test]
fn nobody_sees_half_a_file() {
    let world = World::new("race");
    let contents = [content(100_001, 1), content(2_200_000, 2)];
    let files = [
        world.file("one", &contents[0]),
        world.file("two", &contents[1]),
    ];
    // The folders are there before anybody races for them.
    world.good("ls", &[]);
    let found = std::thread::scope(|scope| {
        for (number, file) in files.iter().enumerate() {
            let world = &world;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let output = world.run("load", &[file, "--name", "x"]);
                    assert!(output.status.success(), "{}", said(&output));
                    if round % 4 == number {
                        let output = world.run("rm", &["x"]);
                        let code = output.status.code();
                        assert!(matches!(code, Some(0 | 3)), "{}", said(&output));
                    }
                }
            });
        }
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut found = [0; 3];
                    for _ in 0..ROUNDS * 2 {
                        let output = world.run("cat", &["x"]);
                        let what = match output.status.code() {
                            Some(0) => contents
                                .iter()
                                .position(|content| *content == output.stdout),
                            Some(3) => Some(2),
                            _ => None,
                        };
                        let what = what.unwrap_or_else(|| {
                            panic!(
                                "half a file of {} bytes: {}",
                                output.stdout.len(),
                                output.status
                            )
                        });
                        found[what] += 1;
                    }
                    found
                })
            })
            .collect();
        let all = readers.into_iter().map(|reader| reader.join().unwrap());
        all.fold([0; 3], |sum, found| {
            [sum[0] + found[0], sum[1] + found[1], sum[2] + found[2]]
        })
    });
    assert!(found[0] + found[1] > 0, "not one read found a buffer");
    let _ = world.run("rm", &["x"]);
    world.good("ls", &[]);
    assert_eq!(world.memory_files(), Vec::<std::path::PathBuf>::new());
}
