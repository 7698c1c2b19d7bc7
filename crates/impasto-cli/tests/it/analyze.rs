//! `impasto analyze tools`: the tables, the report, the page.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::{Workplace, tiny};

/// Writes a safetensors file with tensors of zeros and ones of these names, shapes and lengths in elements of 4 bytes.
fn write_model(at: &Workplace, name: &str, tensors: &[(&str, &str, &str, usize)]) {
    let (mut entries, mut end) = (vec![], 0);
    for (name, dtype, shape, length) in tensors {
        let name = Value::from(*name);
        entries.push(format!(
            r#"{name}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{end},{}]}}"#,
            end + 4 * length
        ));
        end += 4 * length;
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..end / 4).flat_map(|i| ((i as f32 / 40.0).sin()).to_le_bytes()));
    fs::write(at.path(name), file).expect("writes");
}

/// Removes times, which differ from run to run.
fn without_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("microseconds"));
            fields.values_mut().for_each(without_times);
        }
        Value::Array(items) => items.iter_mut().for_each(without_times),
        _ => {}
    }
}

const TOOLS: [&str; 2] = ["--tools", "none,+rdoq,+dct,+left"];

/// The report and the page are the same on every run, and complete.
#[test]
fn reports_on_the_tiny_model_are_sane_and_the_same() {
    let at = Workplace::new();
    let model = tiny();
    let args = [&["analyze", "tools", &model, "--weights", "4096", "--tensor", "*.5.self_attn.*"][..], &TOOLS].concat();
    let run = |report: &str, page: &str, threads: &str| {
        let more = ["--report", report, "--html", page, "--threads", threads];
        let ran = at.run(&[&args[..], &more].concat()).ok();
        let mut value: Value = serde_json::from_slice(&fs::read(at.path(report)).expect("a report")).expect("JSON");
        without_times(&mut value);
        (ran.out, value, fs::read_to_string(at.path(page)).expect("a page"))
    };
    let (out, report, page) = run("a.json", "a.html", "1");
    let (_, again, page_again) = run("b.json", "b.html", "2");
    assert_eq!(report, again);
    assert!(page == page_again, "the pages differ");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["tools"], serde_json::json!(["left", "dct", "rdoq"]));
    let tensors = report["tensors"].as_array().expect("tensors");
    assert_eq!(tensors.len(), 4, "q, k, v and o");
    for tensor in tensors {
        let name = tensor["name"].as_str().expect("a name");
        assert!(out.contains(name) && page.contains(name), "{name}");
        let rate = |of: &str| tensor["rates"][of].as_f64().expect("a rate");
        assert!((3.0..6.0).contains(&rate("lattice")) && (rate("all") - rate("none")).abs() < 0.3, "{tensor}");
        for list in tensor["shares"].as_object().expect("shares").values() {
            let sum: f64 = list.as_array().expect("a list").iter().filter_map(|share| share["share"].as_f64()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{list}");
        }
        let tools: Vec<&str> =
            tensor["tools"].as_array().expect("tools").iter().filter_map(|t| t["name"].as_str()).collect();
        assert_eq!(tools, ["left", "dct", "rdoq"]);
        assert!(tensor["tools"][1]["company"] == serde_json::json!(["rdoq"]), "quarters are not among all tools");
    }
    // Queries and keys of this layer have low-rank parts.
    let parts: Vec<_> = tensors.iter().filter_map(|tensor| tensor["low_rank"].as_object()).collect();
    assert!(!parts.is_empty(), "{report}");
    for part in parts {
        let (rank, saved) = (part["rank"].as_u64().expect("a rank"), part["saved"].as_f64().expect("bits"));
        assert!(rank > 0 && (0.0..4.0).contains(&saved), "{part:?}");
        let shown = format!("+{saved:.3}, rank {rank}");
        assert!(out.contains(&shown) && page.contains(&shown), "{shown}");
    }
    // A tensor is named only where a tool earns something.
    let most = |tool: usize| tensors.iter().filter_map(|t| t["tools"][tool]["left_out"].as_f64()).fold(0.0, f64::max);
    let earns_nowhere = (0..3).any(|tool| most(tool) < 0.01);
    assert_eq!([&out, &page].map(|text| text.contains("none by 0.01")), [earns_nowhere; 2], "{out}");
    // Nothing is loaded from elsewhere.
    let lower = page.to_lowercase();
    for outside in ["src=", "@import", "url(", "<link", "fetch(", "xmlhttprequest", "<iframe"] {
        assert!(!lower.contains(outside), "{outside}");
    }
    let links: BTreeSet<&str> = page.split("http").skip(1).map(|rest| &rest[..rest.len().min(20)]).collect();
    assert!(links.is_empty(), "{links:?}");
}

/// Names come from strangers.
#[test]
fn hostile_names_are_escaped() {
    let at = Workplace::new();
    let name = "</script><script>alert(1)</script>\"'&{{css}}\u{202e}\n";
    write_model(&at, "m.safetensors", &[(name, "F32", "[64,64]", 4096)]);
    let args = ["analyze", "tools", "m.safetensors", "--html", "a.html", "--json"];
    let json = at.run(&[&args[..], &TOOLS].concat()).json();
    assert_eq!(json["tensors"][0]["name"], name);
    assert_eq!(
        json["command"],
        "impasto analyze tools m.safetensors --bpw 4 --weights 16384 --tools none,+left,+dct,+rdoq --effort fast"
    );
    let page = fs::read_to_string(at.path("a.html")).expect("a page");
    assert!(!page.contains("alert(1)</script>") && !page.contains('\u{202e}'));
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;{{css}}"));
    assert!(page.contains(r"\u003c/script>\u003cscript>alert(1)"));
    // Both elements with data and script end where they should.
    assert_eq!(page.matches("</script>").count(), 2);
    let table = at.run(&[&args[..3], &TOOLS].concat()).ok().out;
    assert!(!table.contains('\u{202e}') && table.contains("lattice"), "{table}");
}

#[test]
fn wrong_requests_are_errors() {
    let at = Workplace::new();
    let model = tiny();
    let analyze = |args: &[&str]| at.run(&[&["analyze", "tools"], args].concat());
    analyze(&[&model, "--tensor", "no.such"]).fails(3, "tensor \"no.such\": the model has no tensor of this name");
    analyze(&[&model, "--tensor", "model.norm.weight"]).fails(3, "it is never coded with loss");
    analyze(&[&model, "--bpw", "77"]).fails(3, "no step gives 77 bits per weight");
    analyze(&[&model, "--tools", "none"]).fails(2, "leaves nothing to analyse");
    analyze(&["missing"]).fails(1, "missing");
    assert_eq!(analyze(&[&model, "--weights", "0"]).code, Some(2));
    write_model(&at, "i.safetensors", &[("ids", "I32", "[64,64]", 4096), ("bias", "F32", "[8000]", 8000)]);
    analyze(&["i.safetensors", "--html", "new/page.html"]).fails(3, "nothing to analyse");
    assert_eq!(at.left(), ["i.safetensors"], "no page is left behind");
}
