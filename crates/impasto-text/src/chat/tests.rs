use super::*;
use std::time::{Duration, UNIX_EPOCH};

fn template(text: &str) -> ChatTemplate {
    ChatTemplate::new(text, "<s>", "</s>").unwrap()
}

fn render(text: &str) -> Result<String> {
    template(text).render(&[Message::new("user", "hi")], &ChatOptions::default())
}

#[test]
fn as_transformers_renders() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../tests/golden/chat.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.iter().any(|c| c["name"] == "smollm2"));
    for case in cases {
        let text = |key: &str| case[key].as_str().unwrap();
        let template = ChatTemplate::new(text("template"), text("bos_token"), text("eos_token")).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let options = ChatOptions {
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            variables: case["variables"].as_object().unwrap().clone(),
            now: None,
        };
        assert_eq!(template.render(&messages, &options).unwrap(), text("expected"), "{}", text("name"));
    }
}

#[test]
fn exceptions_and_dates() {
    let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(error.to_string().contains("roles must alternate"), "{error}");
    let options = ChatOptions { now: Some(UNIX_EPOCH + Duration::from_secs(951_782_400)), ..Default::default() };
    let text = template("{{ strftime_now('%d %b %Y') }}").render(&[], &options).unwrap();
    assert_eq!(text, "29 Feb 2000");
    assert!(render("{{ strftime_now('%d') }}").unwrap().parse::<u32>().unwrap() <= 31);
}

#[test]
fn dates_as_python_writes_them() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../tests/golden/chat.json")).unwrap();
    for case in golden["strftime"].as_array().unwrap() {
        let time = UNIX_EPOCH + Duration::from_secs(case["epoch"].as_u64().unwrap());
        assert_eq!(strftime(time, case["format"].as_str().unwrap()).unwrap(), case["expected"].as_str().unwrap());
    }
}

#[test]
fn dates_that_cannot_be_written() {
    let refused = |time, format| strftime(time, format).unwrap_err().to_string();
    assert!(refused(UNIX_EPOCH, "%!").contains("`!`"), "{}", refused(UNIX_EPOCH, "%!"));
    for format in ["50%", "%-", "%9999999999999d", "%\u{e9}"] {
        refused(UNIX_EPOCH, format);
    }
    refused(UNIX_EPOCH + Duration::from_secs(1 << 40), "%Y");
    assert_eq!(strftime(UNIX_EPOCH - Duration::from_secs(1), "%F").unwrap(), "1969-12-31");
    let error = render("{{ strftime_now('%!') }}").unwrap_err().to_string();
    assert!(error.contains("`!`"), "{error}");
}

#[test]
fn hostile_templates_end() {
    let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(matches!(render(nested), Err(TextError::Chat(_))));
    let long = "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}";
    assert!(matches!(render(long), Err(TextError::Chat(_))));
    let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(matches!(render(recursive), Err(TextError::Chat(_))));
    for broken in ["{% for %}", "{% generation", "{{ x", "{% generation %}{% for %}"] {
        assert!(matches!(ChatTemplate::new(broken, "", ""), Err(TextError::Chat(_))), "{broken}");
    }
}

#[test]
fn where_the_template_comes_from() {
    let from = |config: Option<&str>, file: Option<&str>| {
        ChatTemplate::from_assets(config.map(str::as_bytes), file.map(str::as_bytes))
    };
    let messages = [Message::new("user", "hi")];
    let text = |t: ChatTemplate| t.render(&messages, &ChatOptions::default()).unwrap();
    let one = r#"{"bos_token": {"content": "<B>", "lstrip": false}, "chat_template": "{{ bos_token }}one"}"#;
    assert_eq!(text(from(Some(one), None).unwrap()), "<B>one");
    assert_eq!(text(from(Some(one), Some("{{ bos_token }}file")).unwrap()), "<B>file");
    let named = r#"{"eos_token": "<E>", "chat_template": [{"name": "tool_use", "template": "t"},
        {"name": "default", "template": "{{ messages[0].content }}{{ eos_token }}"}]}"#;
    assert_eq!(text(from(Some(named), None).unwrap()), "hi<E>");
    for absent in [None, Some("{}"), Some(r#"{"chat_template": []}"#), Some(r#"{"chat_template": null}"#)] {
        assert!(matches!(from(absent, None), Err(TextError::MissingAsset { .. })));
    }
    assert!(matches!(from(Some("{"), None), Err(TextError::BadAsset { .. })));
    let not_text = ChatTemplate::from_assets(None, Some(&[0xff]));
    assert!(matches!(not_text, Err(TextError::BadAsset { .. })));
}
