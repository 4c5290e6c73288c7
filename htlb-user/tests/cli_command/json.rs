// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What scripts read stays what it is.

use serde_json::Value;

use super::world::World;

fn keys(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn objects_have_the_documented_fields() {
    let world = World::new("json");
    let help = String::from_utf8(world.good("help", &["json"])).unwrap();
    let file = world.file("x", &[1; 5000]);
    let loaded = world.json("load", &[&file]);
    let info = world.json("info", &[]);
    let listed = world.json("ls", &[]);
    let removed = world.json("rm", &["x"]);
    let objects = [
        &loaded,
        &loaded["receipt"],
        &loaded["load"],
        &loaded["parts"][0],
        &listed,
        &listed["buffers"][0],
        &listed["reaped"],
        &removed,
        &info,
        &info["limits"],
        &info["names"],
        &info["memory"],
        &info["limits"]["memlock"],
    ];
    for object in objects {
        for key in keys(object) {
            assert!(help.contains(key), "{key} is not documented");
        }
    }
    assert_eq!(
        keys(&loaded),
        ["bytes", "load", "name", "parts", "receipt", "schema", "source", "verified"]
    );
    assert_eq!(
        keys(&loaded["receipt"]),
        [
            "advice",
            "asked_bytes",
            "home",
            "populated_bytes",
            "refusals",
            "reserved_bytes",
            "seconds",
            "shares"
        ]
    );
    assert_eq!(removed["removed"], serde_json::json!(["x"]));
    assert!(removed["freed_bytes"].as_u64().unwrap() >= 5000);
    assert_eq!(info["problems"], serde_json::json!([]));
    for pool in info["pools"].as_array().unwrap() {
        for key in keys(pool) {
            assert!(help.contains(key), "{key} is not documented");
        }
    }
}

#[test]
fn errors_are_objects_too() {
    let world = World::new("errors");
    let output = world.run("load", &["/nosuch/file", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&object["error"]["code"], &object["error"]["kind"]),
        (&3.into(), &"not-found".into())
    );
    assert_eq!(object["schema"], 1);

    let output = world.run("rm", &["nosuch", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["errors"][0]["code"], 3);

    let output = world.run("pool", &["8M", "1", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(object["error"]["message"]
        .as_str()
        .unwrap()
        .contains("no pool"));
}

#[test]
fn the_command_tells_about_itself() {
    let world = World::new("help");
    let text = |command: &str, args: &[&str]| String::from_utf8(world.good(command, args)).unwrap();
    let help = text("--help", &[]);
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "126 ", "130 "] {
        assert!(
            help.contains(&format!("\n  {code}")),
            "{code} is not documented"
        );
    }
    for command in [
        "load",
        "cat",
        "ls",
        "rm",
        "info",
        "pool",
        "run",
        "completions",
        "man",
        "json",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        assert!(text("help", &[command]).len() > 40, "{command}");
    }
    assert!(text("load", &["--help"]).contains("zstd -dc"));
    assert!(text("--version", &[]).starts_with("htlb "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            text("completions", &[shell]).contains("page-size"),
            "{shell}"
        );
    }
    assert!(text("man", &[]).contains(".TH htlb 1"));
    let dir = world.folder.join("man");
    world.good("man", &["--dir", dir.to_str().unwrap()]);
    assert!(std::fs::read_to_string(world.outside("man/htlb-load.1"))
        .unwrap()
        .contains("dma\\-mask"));
    assert!(text("info", &[]).contains("Memory"));
}
