use super::*;
use proptest::prelude::*;
use serde_json::json;

/// The events of a text in pieces, with neighbouring texts joined.
fn parse(mut parser: ToolParser, pieces: &[&str]) -> Vec<ToolEvent> {
    let mut events: Vec<ToolEvent> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    events.extend(parser.finish());
    let mut joined: Vec<ToolEvent> = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (Some(ToolEvent::Text(a)), ToolEvent::Text(b)) => a.push_str(&b),
            (Some(ToolEvent::Reasoning(a)), ToolEvent::Reasoning(b)) => a.push_str(&b),
            (_, event) => joined.push(event),
        }
    }
    joined
}

fn text(text: &str) -> Vec<ToolEvent> {
    vec![ToolEvent::Text(text.into())]
}

fn call(index: usize, name: &str, arguments: &str) -> Vec<ToolEvent> {
    vec![
        ToolEvent::Begin { index, name: name.into() },
        ToolEvent::Arguments { index, delta: arguments.into() },
        ToolEvent::End { index },
    ]
}

fn of(format: ToolFormat, whole: &str) -> Vec<ToolEvent> {
    parse(ToolParser::new(Some(format)), &[whole])
}

#[test]
fn calls_of_all_formats() {
    let hermes = "I'll look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1.0}}\n</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>\n";
    let expected = [text("I'll look."), call(0, "f", "{\"a\": 1.0}"), call(1, "g", "{}")].concat();
    assert_eq!(of(ToolFormat::Hermes, hermes), expected);
    let llama =
        "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": \"}\\\"\"}}; {\"name\": \"g\", \"parameters\": {}}";
    let expected = [call(0, "f", "{\"a\": \"}\\\"\"}"), call(1, "g", "{}")].concat();
    assert_eq!(of(ToolFormat::Llama, llama), expected);
    assert_eq!(of(ToolFormat::Llama, llama.trim_start_matches("<|python_tag|>")), expected);
    let nested = r#"{"type": "function", "function": {"name": "f", "parameters": "{\"a\": 2}"}}"#;
    assert_eq!(of(ToolFormat::Llama, nested), call(0, "f", "{\"a\": 2}"));
    let mistral = "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"x\": []}}]";
    assert_eq!(of(ToolFormat::Mistral, mistral), [call(0, "f", "{}"), call(1, "g", "{\"x\": []}")].concat());
    let newer = "Well.[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{\"a\": 1}[TOOL_CALLS]g{}";
    assert_eq!(
        of(ToolFormat::Mistral, newer),
        [text("Well."), call(0, "f", "{\"a\": 1}"), call(1, "g", "{}")].concat()
    );
}

#[test]
fn calls_in_tags_have_types() {
    let tools = [json!({"type": "function", "function": {
        "name": "f", "parameters": {"type": "object", "properties": {"zip": {"type": "string"}, "n": {"type": "integer"}}},
    }})];
    let whole = "<tool_call>\n<function=f>\n<parameter=zip>\n01234\n</parameter>\n<parameter=n>\n7\n</parameter>\n\
                 <parameter=code>\nif a < b:\n  </x>\n</parameter>\n</function>\n</tool_call>\n<function=g></function> ok";
    let parser = ToolParser::new(Some(ToolFormat::Xml)).with_tools(&tools);
    let first = call(0, "f", r#"{"zip":"01234","n":7,"code":"if a < b:\n  </x>"}"#);
    assert_eq!(parse(parser, &[whole]), [first, call(1, "g", "{}"), text("ok")].concat());
}

#[test]
fn what_only_looks_like_a_call_is_text() {
    for (format, whole) in [
        (ToolFormat::Hermes, "a <tool_call> b </tool_call> c"),
        (ToolFormat::Hermes, "<tool_call>{\"name\": 1}</tool_call>"),
        (ToolFormat::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>"),
        (ToolFormat::Hermes, "<tool_call>{\"name\": \"f\", \"argu"),
        (ToolFormat::Hermes, "</tool_call> and <tool_ca"),
        (ToolFormat::Llama, "{\"name\": \"Bob\"}"),
        (ToolFormat::Llama, "{ x } and {\"name\": \"f\", \"parameters\": {}}"),
        (ToolFormat::Mistral, "[TOOL_CALLS] f g {}"),
        (ToolFormat::Mistral, "[TOOL_CALLS][1]"),
        (ToolFormat::Xml, "<function=f><param>"),
        (ToolFormat::Xml, "<tool_call>\n<function=f>\n<parameter=a>1"),
    ] {
        assert_eq!(of(format, whole), text(whole), "{format:?}");
    }
    let after = "<tool_call>\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>";
    assert_eq!(of(ToolFormat::Hermes, after), [text("<tool_call>\n"), call(0, "f", "{}")].concat());
    assert_eq!(parse(ToolParser::new(None), &[after]), text(after));
}

#[test]
fn reasoning_is_separate() {
    let reasoning = |text: &str| vec![ToolEvent::Reasoning(text.into())];
    let whole = "<think>\nI use <tool_call>{\"name\": \"f\"}.\n</think>\n\n<tool_call>{\"name\": \"g\"}</tool_call>";
    let parser = || ToolParser::new(Some(ToolFormat::Hermes));
    let thought = reasoning("I use <tool_call>{\"name\": \"f\"}.");
    assert_eq!(parse(parser().with_reasoning(false), &[whole]), [thought.clone(), call(0, "g", "{}")].concat());
    let open = whole.strip_prefix("<think>").unwrap();
    assert_eq!(parse(parser().with_reasoning(true), &[open]), [thought, call(0, "g", "{}")].concat());
    assert_eq!(parse(parser().with_reasoning(true), &["cut"]), reasoning("cut"));
    let later = "Yes <think>x</think>";
    assert_eq!(parse(parser().with_reasoning(false), &[later]), text(later));
    let again = "<think></think> a <think>";
    assert_eq!(parse(parser().with_reasoning(false), &[again]), text("a <think>"));
}

#[test]
fn text_is_shown_at_once() {
    let mut parser = ToolParser::new(Some(ToolFormat::Hermes));
    assert_eq!(parser.push("1 < 2"), text("1 < 2"));
    assert_eq!(parser.push(" <tool"), []);
    assert_eq!(parser.push("s>"), text(" <tools>"));
    let mut parser = ToolParser::new(Some(ToolFormat::Llama));
    assert_eq!(parser.push("{ let"), text("{ let"));
}

#[test]
fn long_texts_take_time_in_proportion() {
    for (format, part) in [
        (ToolFormat::Hermes, "<tool_call>{\"a"),
        (ToolFormat::Xml, "<function=a><parameter=b></parameter>"),
        (ToolFormat::Xml, "<tool_call><function=a><parameter=b>"),
        (ToolFormat::Mistral, "[TOOL_CALLS][{\""),
        (ToolFormat::Llama, "{\"a\":["),
        (ToolFormat::Hermes, " \n"),
    ] {
        let whole = part.repeat(20_000);
        assert_eq!(of(format, &whole), text(&whole));
    }
}

/// Texts of parts of calls, with whatever between them.
fn texts() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "<tool_call>",
        "</tool_call>",
        "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}",
        "{\"name\": \"g\",",
        "\"parameters\": {}}",
        "<|python_tag|>",
        ";",
        " ",
        "\n",
        "[TOOL_CALLS]",
        "[{\"name\": \"h\"}]",
        "f{}",
        "[ARGS]",
        "<function=f>",
        "<parameter=x>",
        "1",
        "</parameter>",
        "</function>",
        "<think>",
        "</think>",
        "é",
        "<",
        "{",
        "[",
        "text",
        "\\",
        "\"",
    ]);
    prop::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_cutting_gives_the_same_events(
        whole in texts(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        format in prop::sample::select(vec![ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::Mistral, ToolFormat::Xml]),
        reasoning in any::<Option<bool>>(),
    ) {
        let parser = || {
            let parser = ToolParser::new(Some(format));
            match reasoning { Some(open) => parser.with_reasoning(open), None => parser }
        };
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).filter(|&at| whole.is_char_boundary(at)).collect();
        at.extend([0, whole.len()]);
        at.sort_unstable();
        let pieces: Vec<&str> = at.windows(2).map(|ends| &whole[ends[0]..ends[1]]).collect();
        let events = parse(parser(), &pieces);
        prop_assert_eq!(&events, &parse(parser(), &[&whole]));
        // Without a call or reasoning, the text is what was read; arguments are objects.
        if let [ToolEvent::Text(text)] = &events[..] && reasoning.is_none() {
            prop_assert_eq!(text, &whole);
        }
        for event in &events {
            if let ToolEvent::Arguments { delta, .. } = event {
                let is_object = serde_json::from_str::<serde_json::Map<String, Value>>(delta).is_ok();
                prop_assert!(is_object);
            }
        }
    }
}
