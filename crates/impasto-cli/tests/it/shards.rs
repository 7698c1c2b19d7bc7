//! Encodings in shards have the bytes of one machine.

use std::fs;
use std::process::Stdio;

use crate::support::{Ran, Workplace, impasto, tiny};

/// Runs shards in turn, and `merge`, until the file is there; returns it, and how often each shard ran.
fn encode_in_rounds(at: &Workplace, model: &str, options: &[&str], of: usize) -> (Vec<u8>, usize) {
    for round in 1..20 {
        for number in 1..=of {
            let shard = format!("{number}/{of}");
            let args = [&["encode", model, "-o", "shards.impasto", "-q", "--shard", &shard], options].concat();
            let ran = at.run(&args);
            assert!(matches!(ran.code, Some(0 | 7)), "{ran:?}");
        }
        let merged = at.run(&["merge", "shards.impasto", "-q"]);
        match merged.code {
            Some(7) => {}
            _ => {
                merged.ok();
                return (fs::read(at.path("shards.impasto")).expect("reads"), round);
            }
        }
    }
    panic!("{options:?} does not end");
}

fn one_machine(at: &Workplace, model: &str, options: &[&str]) -> Vec<u8> {
    at.run(&[&["encode", model, "-o", "one.impasto", "-q"], options].concat()).ok();
    fs::read(at.path("one.impasto")).expect("reads")
}

#[test]
fn shards_have_the_bytes_of_one_machine() {
    let at = Workplace::new();
    at.write("text", &impasto::calibrate::TEXT[..20_000]);
    at.run(&["calibrate", &tiny(), "--text", "text", "-o", "s", "--tokens", "2048", "-q"]).ok();
    let ways: [(&[&str], usize, usize); 4] = [
        (&[], 3, 1),
        (&["--bpw", "2.5", "--statistics", "s", "--trellis", "8"], 2, 8),
        (&["--format", "mxfp4", "--statistics", "s"], 2, 2),
        (&["--format", "mlp=int4", "--policy", "fragile=int8", "--bpw", "6", "--statistics", "s"], 2, 8),
    ];
    for (options, of, most) in ways {
        let _ = fs::remove_dir_all(at.path("shards.impasto.shards"));
        let (file, rounds) = encode_in_rounds(&at, &tiny(), options, of);
        assert!(file == one_machine(&at, &tiny(), options), "{options:?}");
        assert!(rounds <= most, "{options:?}: {rounds} rounds");
        println!("{options:?}: {rounds} rounds");
    }
}

/// Tensors that are tied have one set of units, wherever they are.
#[test]
fn tied_tensors_stay_tied() {
    let at = Workplace::new();
    let weights = |seed: u16| -> Vec<u8> {
        (0..4096u16).flat_map(|i| (0x3C00 | i.wrapping_mul(seed).rotate_left(7) & 0x83FF).to_le_bytes()).collect()
    };
    let (one, other) = (weights(40_503), weights(30_011));
    let names = ["a", "b", "c", "d", "e", "f"];
    let tensor = |(i, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"F16","shape":[64,64],"data_offsets":[{},{}]}}"#, i * 8192, (i + 1) * 8192)
    };
    let header = format!("{{{}}}", names.iter().enumerate().map(tensor).collect::<Vec<_>>().join(","));
    let data = [&one, &other, &one, &other, &weights(50_021), &one].map(|data| &data[..]).concat();
    fs::create_dir(at.path("model")).expect("a folder");
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(at.path("model/model.safetensors"), file).expect("writes");
    // The first has more shards than tensors.
    for (options, of) in [(&[][..], 8), (&["--size", "12KB", "--uncalibrated", "--tools", "none"], 2)] {
        let _ = fs::remove_dir_all(at.path("shards.impasto.shards"));
        let (file, _) = encode_in_rounds(&at, "model", options, of);
        assert!(file == one_machine(&at, "model", options), "{options:?}");
    }
}

/// A shard says which of its tensors are kept exactly, as one machine says it of all.
#[test]
fn tensors_that_are_not_finite_are_named() {
    let at = Workplace::new();
    let numbers = |i: u16| (i.wrapping_mul(40_503) & 0x83FF | 0x3C00).to_le_bytes();
    let mut data: Vec<u8> = (0..2 * 4096).flat_map(numbers).collect();
    data[..2].copy_from_slice(&0x7E00u16.to_le_bytes());
    let tensor = |name: &str, at: usize| {
        format!(r#""{name}":{{"dtype":"F16","shape":[64,64],"data_offsets":[{at},{}]}}"#, at + 8192)
    };
    let header = format!("{{{},{}}}", tensor("bad", 0), tensor("good", 8192));
    fs::create_dir(at.path("model")).expect("a folder");
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(at.path("model/model.safetensors"), file).expect("writes");
    let args = ["encode", "model", "-o", "x", "--uncalibrated", "--size", "10500", "--tools", "none", "--wait", "300"];
    let start = |shard| {
        let mut command = impasto(&[&args[..], &["--shard", shard]].concat());
        command.current_dir(at.path("")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
    };
    let both = ["1/2", "2/2"].map(start).map(|child| Ran::of(child.wait_with_output().expect("ends")).ok());
    let says = "warning: tensor \"bad\" contains NaN or infinity and is stored losslessly";
    assert_eq!(both.iter().filter(|ran| ran.err.contains(says)).count(), 1, "{both:?}");
}

#[test]
fn two_processes_at_once_need_one_run() {
    let at = Workplace::new();
    let options = ["--bpw", "4", "--uncalibrated"];
    let start = |shard| {
        let model = tiny();
        let args = [&["encode", &model, "-o", "two.impasto", "-q", "--shard", shard, "--wait", "300"], &options[..]];
        let mut command = impasto(&args.concat());
        command.current_dir(at.path("")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
    };
    let both = ["1/2", "2/2"].map(start);
    both.into_iter().for_each(|child| drop(Ran::of(child.wait_with_output().expect("ends")).ok()));
    at.run(&["merge", "two.impasto", "-q"]).ok();
    assert!(fs::read(at.path("two.impasto")).expect("reads") == one_machine(&at, &tiny(), &options));
}

#[test]
fn shards_are_resumed_and_checked() {
    let at = Workplace::new();
    let run = |shard: &str, more: &[&str]| {
        let model = tiny();
        at.run(&[&["encode", &model, "-o", "x", "-q", "--json", "--shard", shard], more].concat())
    };
    at.run(&["merge", "x"]).fails(1, "x.shards");
    run("2/3", &[]).ok();
    at.run(&["merge", "x"]).fails(7, "shards 1, 3 are missing");
    let whole = at.path("x.shards/2-of-3.units0-0");
    let bytes = fs::read(&whole).expect("reads");
    assert_eq!(run("2/3", &[]).json()["found"], 1);

    // A damaged file, and one that is cut short.
    for number in [1, 3] {
        run(&format!("{number}/3"), &[]).ok();
    }
    let mut damaged = bytes.clone();
    *damaged.last_mut().expect("bytes") ^= 1;
    for (broken, code, says) in
        [(&damaged[..], 4, "2-of-3.units0-0"), (&bytes[..bytes.len() / 2], 5, "2-of-3.units0-0")]
    {
        fs::write(&whole, broken).expect("writes");
        at.run(&["merge", "x"]).fails(code, says);
        assert!(!at.path("x").exists());
        assert_eq!(run("2/3", &[]).json()["found"], 0);
        assert!(fs::read(&whole).expect("reads") == bytes);
    }

    // A file of another encoding.
    run("2/3", &["--segments", "2"]).ok();
    at.run(&["merge", "x"]).fails(3, "with other options than");
    assert_eq!(run("2/3", &[]).json()["found"], 0);
    fs::copy(&whole, at.path("x.shards/1-of-3.units0-0")).expect("copies");
    at.run(&["merge", "x"]).fails(3, "its name is not that of its contents");
    run("1/3", &[]).ok();
    fs::write(at.path("x.shards/1-of-4.units0-0"), bytes).expect("writes");
    at.run(&["merge", "x"]).fails(3, "files of 3 and of 4 shards");
    fs::remove_file(at.path("x.shards/1-of-4.units0-0")).expect("removes");
    at.run(&["merge", "x", "-q"]).ok();
    assert!(fs::read(at.path("x")).expect("reads") == one_machine(&at, &tiny(), &[]));
}

#[test]
fn options_that_need_the_whole_file_are_refused() {
    let at = Workplace::new();
    let refused = |options: &[&str], code, says| {
        let model = tiny();
        at.run(&[&["encode", &model, "-o", "x", "--shard", "1/2"], options].concat()).fails(code, says);
        assert!(!at.path("x.shards").exists());
    };
    refused(&["--bpw", "4"], 2, "--shard needs statistics that are the same for all shards");
    refused(&["--bpw", "4", "--uncalibrated", "--reorder", "sum"], 2, "--reorder");
    for shard in ["0/2", "3/2", "1", "a/b", "1/65537"] {
        assert_eq!(at.run(&["encode", "m", "-o", "x", "--shard", shard]).code, Some(2), "{shard}");
    }
    assert_eq!(at.run(&["encode", "m", "-o", "x", "--shard", "1/2", "--layers", "default"]).code, Some(2));
}

#[test]
fn a_calibration_in_shards_has_the_bytes_of_one_machine() {
    let at = Workplace::new();
    at.write("text", &impasto::calibrate::TEXT[..40_000]);
    // 40 windows: four parts of eight, one of three, and the five that are held out.
    let calibrate = |output: &str, gradients: &str, more: &[&str]| {
        let model = tiny();
        let text = ["calibrate", &model, "--text", "text", "--ctx", "64", "--tokens", "2560"];
        at.run(&[&text[..], &["--gradient-tokens", gradients, "-o", output, "-q"], more].concat())
    };
    for (gradients, of) in [("1300", 2), ("2560", 3)] {
        calibrate("one", gradients, &[]).ok();
        at.run(&["merge", "s"]).fails(1, "s.shards");
        for number in (1..=of).rev() {
            if number < of {
                at.run(&["merge", "s"]).fails(7, &format!("shard{}", if number > 1 { "s 1" } else { " 1" }));
            }
            calibrate("s", gradients, &["--shard", &format!("{number}/{of}")]).ok();
        }
        at.run(&["merge", "s", "--memory-limit", "1MB"]).fails(3, "joining the shards takes about");
        assert!(!at.path("s").exists());
        at.run(&["merge", "s", "-q"]).ok();
        assert!(fs::read(at.path("s")).expect("reads") == fs::read(at.path("one")).expect("reads"), "{of} shards");
        // A damaged file, and one of another calibration.
        let file = at.path(&format!("s.shards/1-of-{of}.sums"));
        let whole = fs::read(&file).expect("reads");
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("bytes") ^= 1;
        fs::write(&file, damaged).expect("writes");
        at.run(&["merge", "s"]).fails(4, "1-of-");
        calibrate("s", "640", &["--shard", &format!("1/{of}")]).ok();
        at.run(&["merge", "s"]).fails(3, "with other options than");
        calibrate("s", gradients, &["--shard", &format!("1/{of}")]).ok();
        assert!(fs::read(&file).expect("reads") == whole);
        fs::remove_dir_all(at.path("s.shards")).expect("removes");
        fs::remove_file(at.path("s")).expect("removes");
    }
}
