use super::*;
use crate::{ToolChoice, ToolEvent, ToolParser};
use impasto_core::rng::SplitMix64;
use std::sync::OnceLock;

fn tokenizer() -> &'static Tokenizer {
    static TINY: OnceLock<Tokenizer> = OnceLock::new();
    TINY.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tiny/tokenizer.json");
        Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap()
    })
}

fn eos() -> u32 {
    tokenizer().token_to_id("<|endoftext|>").unwrap()
}

fn grammars() -> &'static Grammars {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    GRAMMARS.get_or_init(|| Grammars::new(tokenizer(), &[eos()]).unwrap())
}

/// The bytes of all tokens.
fn bytes() -> &'static [Vec<u8>] {
    static BYTES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BYTES.get_or_init(|| (0..tokenizer().vocab_size() as u32).map(|id| tokenizer().token_bytes(id).unwrap()).collect())
}

fn allowed(mask: &[u32], id: u32) -> bool {
    mask.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// A random text within a constraint; `None` if it does not end.
fn write(constraint: &Constraint, seed: u64) -> Option<String> {
    let mut rng = SplitMix64::new(seed);
    let mut matcher = grammars().compile(constraint).unwrap();
    let mut ids = Vec::new();
    for _ in 0..600 {
        let mask = matcher.mask().unwrap().to_vec();
        let can_end = allowed(&mask, eos());
        assert_eq!(can_end, matcher.is_accepting().unwrap() || matcher.must_stop());
        let choices: Vec<u32> = (0..tokenizer().vocab_size() as u32).filter(|&id| allowed(&mask, id)).collect();
        assert!(!choices.is_empty());
        // End soon, and prefer tokens that close something.
        let short: Vec<u32> = choices
            .iter()
            .copied()
            .filter(|&id| bytes()[id as usize].first().is_some_and(|b| b"\"}],".contains(b)))
            .collect();
        let pool = if !short.is_empty() && rng.next_f64() < 0.5 { &short } else { &choices };
        let id = if can_end && (matcher.must_stop() || rng.next_f64() < 0.5) {
            eos()
        } else {
            pool[rng.next_u64() as usize % pool.len()]
        };
        if id == eos() {
            return Some(tokenizer().decode(&ids, false).unwrap());
        }
        matcher.commit(id).unwrap();
        ids.push(id);
    }
    None
}

#[test]
fn random_texts_are_valid() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age", "tags"],
        "properties": {
            "name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b\n", "é"]}, "minItems": 1, "maxItems": 3},
            "more": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
        },
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": false}},
    });
    let mut ended = 0;
    for seed in 0..40 {
        let Some(text) = write(&Constraint::JsonSchema(schema.clone()), seed) else { continue };
        ended += 1;
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(value["name"].as_str().unwrap().chars().count() <= 8, "{text}");
        assert!(value["age"].as_u64().unwrap() <= 150, "{text}");
        let tags = value["tags"].as_array().unwrap();
        assert!(
            (1..=3).contains(&tags.len()) && tags.iter().all(|t| ["a", "b\n", "é"].contains(&t.as_str().unwrap())),
            "{text}"
        );
        assert!(value.get("more").is_none_or(|more| more.is_null() || more["x"].is_number()), "{text}");
        assert!(value.as_object().unwrap().keys().all(|key| ["name", "age", "tags", "more"].contains(&key.as_str())));
    }
    assert!(ended > 20, "{ended}");
    let objects = (0..30).filter_map(|seed| write(&Constraint::JsonObject, seed));
    let objects: Vec<String> = objects.collect();
    assert!(objects.len() > 10 && objects.iter().all(|text| serde_json::from_str::<Value>(text).unwrap().is_object()));
    for seed in 0..20 {
        assert_eq!(write(&Constraint::Regex("^ab?$".into()), seed).unwrap().trim_end_matches('b'), "a");
        let text = write(&Constraint::Regex("[a-c]{2,4}-(x|é灯)[0-9]/".into()), seed).unwrap();
        let (head, tail) = text.split_once('-').unwrap();
        assert!((2..=4).contains(&head.len()) && head.bytes().all(|b| b"abc".contains(&b)), "{text}");
        assert!(tail.ends_with('/') && (tail.starts_with('x') || tail.starts_with("é灯")), "{text}");
        let choices = ["yes".to_owned(), "no (a+b)".to_owned(), "ja".to_owned()];
        assert!(choices.contains(&write(&Constraint::Choice(choices.to_vec()), seed).unwrap()));
    }
}

#[test]
fn masks_are_naive() {
    let texts = ["the cat".to_owned(), "there".to_owned(), "a灯".to_owned()];
    let mut matcher = grammars().compile(&Constraint::Choice(texts.to_vec())).unwrap();
    let mut written: Vec<u8> = Vec::new();
    loop {
        let mask = matcher.mask().unwrap().to_vec();
        let may_follow = |id: u32| {
            if id == eos() {
                return texts.iter().any(|text| text.as_bytes() == written);
            }
            let whole = [&written[..], &bytes()[id as usize]].concat();
            !tokenizer().is_special(id)
                && whole.len() > written.len()
                && texts.iter().any(|text| text.as_bytes().starts_with(&whole))
        };
        let ids = 0..tokenizer().vocab_size() as u32;
        assert_eq!(
            ids.clone().filter(|&id| allowed(&mask, id)).collect::<Vec<_>>(),
            ids.clone().filter(|&id| may_follow(id)).collect::<Vec<_>>()
        );
        // The last of the possible tokens, which is a part of a character where there is one.
        let next = ids.rev().find(|&id| may_follow(id)).unwrap();
        if next == eos() {
            break;
        }
        written.extend(&bytes()[next as usize]);
        matcher.commit(next).unwrap();
    }
    assert!(matcher.must_stop());
}

/// There is white space between words, and an end to it.
#[test]
fn white_space_ends() {
    let [space, open] = [" ", "{"].map(|text| tokenizer().encode(text, false).unwrap()[0]);
    let tools = vec![json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})];
    let calls = Constraint::ToolCalls { format: ToolFormat::Llama, tools, parallel: false };
    for constraint in [Constraint::JsonObject, Constraint::JsonSchema(json!({"type": "object"})), calls] {
        let mut matcher = grammars().compile(&constraint).unwrap();
        if let Constraint::ToolCalls { .. } = constraint {
            let head = tokenizer().encode("{\"name\": \"f\", \"parameters\": ", false).unwrap();
            head.into_iter().for_each(|id| matcher.commit(id).unwrap());
        }
        matcher.commit(open).unwrap();
        let mut spaces = 0;
        while allowed(matcher.mask().unwrap(), space) {
            matcher.commit(space).unwrap();
            spaces += 1;
            assert!(spaces <= 20, "{constraint:?}");
        }
        assert!(spaces >= 8, "room for an indentation: {constraint:?}");
    }
}

#[test]
fn a_wrong_token_is_an_error() {
    let mut matcher = grammars().compile(&Constraint::Choice(vec!["ab".into()])).unwrap();
    let z = tokenizer().token_to_id("z").unwrap();
    assert!(matches!(matcher.commit(u32::MAX), Err(TextError::Grammar(_))));
    let copy = matcher.clone();
    assert!(matches!(matcher.commit(z), Err(TextError::Grammar(_))));
    assert!(matches!(matcher.mask(), Err(TextError::Grammar(_))));
    let mut matcher = copy;
    matcher.commit(tokenizer().token_to_id("a").unwrap()).unwrap();
    assert!(!matcher.is_accepting().unwrap() && !matcher.must_stop());
    for eos in [&[][..], &[u32::MAX]] {
        assert!(matches!(Grammars::new(tokenizer(), eos), Err(TextError::BadOption { name: "eos", .. })));
    }
}

fn refused(constraint: &Constraint) -> String {
    match grammars().compile(constraint) {
        Err(TextError::Grammar(rule)) => {
            assert!(!rule.contains('\n') && !rule.is_empty(), "{rule}");
            rule
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{constraint:?} compiles"),
    }
}

#[test]
fn invalid_constraints_are_errors() {
    for schema in [
        json!({"type": "nonsense"}),
        json!({"$ref": "https://example.org/schema.json"}),
        json!({"$ref": "file:///etc/passwd"}),
        json!({"$ref": "#/$defs/none"}),
        json!(3),
        json!({"type": "string", "pattern": "("}),
        json!({"type": "array", "uniqueItems": true}),
        json!({"enum": []}),
        json!({"type": "integer", "minimum": 2, "maximum": 1}),
    ] {
        refused(&Constraint::JsonSchema(schema));
    }
    for regex in ["", "(", "a{2,1}", "[z-a]", "\\p{Nonsense}", "(?P<a", "(?=a)b"] {
        refused(&Constraint::Regex(regex.into()));
    }
    refused(&Constraint::Choice(vec![]));
    refused(&Constraint::Choice(vec![String::new()]));
    refused(&Constraint::ToolCalls { format: ToolFormat::Hermes, tools: vec![], parallel: true });
}

/// Uses a constraint for a few tokens, if it compiles. Errors are fine; hanging and exhausting memory are not.
fn try_it(constraint: &Constraint) {
    let Ok(mut matcher) = grammars().compile(constraint) else { return };
    for step in 0..20 {
        let Ok(mask) = matcher.mask() else { return };
        let ids: Vec<u32> = (0..tokenizer().vocab_size() as u32).filter(|&id| allowed(mask, id)).collect();
        let id = ids[step * 7919 % ids.len()];
        if matcher.must_stop() || matcher.commit(id).is_err() {
            return;
        }
    }
}

#[test]
fn hostile_constraints_end() {
    let nested =
        |depth: usize| (0..depth).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}));
    assert!(refused(&Constraint::JsonSchema(nested(100))).contains("deep"));
    try_it(&Constraint::JsonSchema(nested(30)));
    assert!(refused(&Constraint::Regex("(".repeat(1000) + &")".repeat(1000))).contains("deep"));
    assert!(refused(&Constraint::Regex("a".repeat(1 << 20))).contains("bytes"));
    let many = |n: usize| json!({"enum": (0..n).map(|i| format!("{i:x}")).collect::<Vec<_>>()});
    try_it(&Constraint::JsonSchema(many(20_000)));
    refused(&Constraint::JsonSchema(many(1_000_000)));
    for regex in [
        "(a*)*b",
        "(a|a)*b",
        "(a|aa)+$",
        "(x+x+)+y",
        "a{1000000000}",
        "((a{1000}){1000}){1000}",
        "(.{0,1000}x){0,1000}",
        "(.*a){30}.*",
        "((((((a{9}){9}){9}){9}){9}){9}){9}",
        "[a-z]{60000}",
        "(a?){5000}a{5000}",
        ".*(.{200}b).*",
        "(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x",
    ] {
        try_it(&Constraint::Regex(regex.into()));
    }
    try_it(&Constraint::Regex("ab".repeat(60_000)));
    try_it(&Constraint::Regex("a|".repeat(60_000) + "b"));
    try_it(&Constraint::Choice((0..10_000).map(|i| format!("choice {i}")).collect()));
    for schema in [
        json!({"type": "string", "maxLength": 1_000_000_000}),
        json!({"type": "string", "minLength": 1_000_000_000}),
        json!({"type": "array", "minItems": 1_000_000_000}),
        json!({"type": "array", "items": {"type": "string"}, "maxItems": 1_000_000_000}),
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        json!({"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1_000_000}),
        json!({"type": "number", "multipleOf": 1e-300}),
        json!({"type": "integer", "minimum": -1e300, "maximum": 1e300}),
        json!({"type": "string", "pattern": "^(a|b|c){1,100000}$"}),
        json!({"type": "string", "const": "x".repeat(100_000)}),
        json!({"oneOf": (0..100).map(|i| json!({"type": "string", "pattern": format!("a.{{{i}}}b")})).collect::<Vec<_>>()}),
        json!({"anyOf": (0..100).map(|i| json!({"type": "string", "pattern": format!("a.{{{i}}}b")})).collect::<Vec<_>>()}),
        json!({"allOf": (0..8).map(|i| json!({"type": "string", "pattern": format!("a.{{{i}}}b")})).collect::<Vec<_>>()}),
        json!({"allOf": (0..8).map(|i| json!({"anyOf": (0..5).map(|j| json!({"type": "object", "required": [format!("{i}x{j}")]})).collect::<Vec<_>>()})).collect::<Vec<_>>()}),
        json!({"oneOf": (0..300).map(|i| json!({"type": "object", "properties": {format!("p{i}"): {"type": "string"}}})).collect::<Vec<_>>()}),
    ] {
        try_it(&Constraint::JsonSchema(schema));
    }
    // The time of intersecting patterns doubles with each.
    let pattern = |i: usize| json!({"type": "string", "pattern": format!("a.{{{i}}}b")});
    let all = json!({"allOf": (0..30).map(pattern).collect::<Vec<_>>()});
    let chain = |i: usize| {
        (format!("d{i}"), json!({"pattern": format!("a.{{{i}}}b"), "$ref": format!("#/$defs/d{}", (i + 1) % 30)}))
    };
    let chained = json!({"$defs": (0..30).map(chain).collect::<serde_json::Map<_, _>>(), "$ref": "#/$defs/d0"});
    for schema in [all, chained] {
        assert!(refused(&Constraint::JsonSchema(schema)).contains("patterns"));
    }
    // A long chain of references, each an intersection.
    let link = |i: usize| (format!("d{i}"), json!({"allOf": [{"$ref": format!("#/$defs/d{}", i + 1)}, {}]}));
    for length in [100, 5000] {
        let mut defs: serde_json::Map<String, Value> = (0..length).map(link).collect();
        defs.insert(format!("d{length}"), json!({"type": "object"}));
        try_it(&Constraint::JsonSchema(json!({"$defs": defs, "$ref": "#/$defs/d0"})));
    }
}

#[test]
fn calls_are_those_that_the_parser_reads() {
    let tools = [
        json!({"type": "function", "function": {"name": "find", "parameters": {
            "type": "object", "additionalProperties": false, "required": ["n"],
            "properties": {"n": {"type": "integer"}, "unit": {"enum": ["km", "mi"]}, "text": {"type": "string"}},
        }}}),
        json!({"type": "function", "function": {"name": "now"}}),
    ];
    for format in [ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::Mistral, ToolFormat::Xml] {
        let constraint = format.grammar(&tools, &ToolChoice::Required, true).unwrap().unwrap();
        let (mut names, mut ended) = (std::collections::HashSet::new(), 0);
        for seed in 0..30 {
            let Some(text) = write(&constraint, seed) else { continue };
            ended += 1;
            let mut parser = ToolParser::new(Some(format)).with_tools(&tools);
            let mut events = parser.push(&text);
            events.extend(parser.finish());
            assert!(!events.is_empty());
            for event in events {
                match event {
                    ToolEvent::Begin { name, .. } => drop(names.insert(name)),
                    ToolEvent::Arguments { delta, .. } => {
                        let arguments: Value = serde_json::from_str(&delta).unwrap();
                        assert!(arguments["n"].is_number() || arguments == json!({}), "{format:?} {text}");
                    }
                    ToolEvent::End { .. } => {}
                    other => panic!("{format:?}: {other:?} in {text:?}"),
                }
            }
        }
        assert!(ended > 10 && names.len() == 2, "{format:?}: {ended}, {names:?}");
        let named = format.grammar(&tools, &ToolChoice::Function("now".into()), false).unwrap().unwrap();
        let text = write(&named, 1).unwrap();
        assert!(text.contains("now") && !text.contains("find"), "{text}");
    }
    let none = ToolFormat::Hermes.grammar(&tools, &ToolChoice::Function("no".into()), false);
    assert!(matches!(none, Err(TextError::BadOption { name: "tool_choice", .. })));
    assert_eq!(ToolFormat::Hermes.grammar(&tools, &ToolChoice::Auto, true).unwrap(), None);
}

/// A larger vocabulary: the tokenizer of SmolLM2, if `IMPASTO_MODELS` has it.
#[test]
fn a_real_tokenizer() {
    let Some(models) = std::env::var_os("IMPASTO_MODELS") else { return };
    let path = std::path::Path::new(&models).join("smollm2-135m-continuous/tokenizer.json");
    let Ok(json) = std::fs::read(path) else { return };
    let tokenizer = Tokenizer::from_json(&json).unwrap();
    let eos = tokenizer.token_to_id("<|im_end|>").unwrap();
    let grammars = Grammars::new(&tokenizer, &[eos, tokenizer.token_to_id("<|endoftext|>").unwrap()]).unwrap();
    let text = "{\"name\": \"Zoë\", \"list\": [1, null]}";
    let mut matcher = grammars.compile(&Constraint::JsonObject).unwrap();
    for id in tokenizer.encode(text, false).unwrap() {
        assert!(!matcher.must_stop() && allowed(matcher.mask().unwrap(), id));
        matcher.commit(id).unwrap();
    }
    assert!(matcher.is_accepting().unwrap() && allowed(matcher.mask().unwrap(), eos));
    let mut rng = SplitMix64::new(1);
    let mut matcher = grammars.compile(&Constraint::Regex("[A-Z][a-z]{1,9} \\d+".into())).unwrap();
    let mut bytes = Vec::new();
    while !matcher.must_stop() && bytes.len() < 40 {
        let mask = matcher.mask().unwrap();
        let ids: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| allowed(mask, id)).collect();
        let id = ids[rng.next_u64() as usize % ids.len()];
        matcher.commit(id).unwrap();
        if tokenizer.is_special(id) {
            break;
        }
        bytes.extend(tokenizer.token_bytes(id).unwrap());
    }
    let text = String::from_utf8(bytes).unwrap();
    let (word, number) = text.split_once(' ').unwrap();
    assert!(word.starts_with(|c: char| c.is_ascii_uppercase()) && number.chars().all(char::is_numeric), "{text}");
}

/// A tokenizer of these tokens.
fn of_words(words: impl IntoIterator<Item = String>) -> Tokenizer {
    let vocab: serde_json::Map<_, _> = words.into_iter().zip((0..).map(Value::from)).collect();
    let json =
        json!({"version": "1.0", "decoder": {"type": "Fuse"}, "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
}

#[test]
fn unusual_vocabularies() {
    let large = of_words((0..5000).map(|i| format!("{i}{}", "x".repeat(990))));
    assert!(matches!(Grammars::new(&large, &[0]), Err(TextError::Grammar(_))));
    // A token that is too long is never allowed; one that ends the text is no text.
    let long = of_words(["end".to_owned(), "a".to_owned(), "a".repeat(5000), "aa".to_owned()]);
    let mut matcher = Grammars::new(&long, &[0]).unwrap().compile(&Constraint::Regex("[a-z]+".into())).unwrap();
    assert_eq!(matcher.mask().unwrap(), [0b1010]);
    matcher.commit(1).unwrap();
    assert_eq!(matcher.mask().unwrap(), [0b1011]);
    matcher.commit(0).unwrap();
    assert!(matcher.must_stop());
    assert_eq!(matcher.mask().unwrap(), [1]);
    let mut stuck = Grammars::new(&long, &[0]).unwrap().compile(&Constraint::Regex("[b-z]+".into())).unwrap();
    assert!(stuck.mask().unwrap_err().to_string().contains("no token"));
}
