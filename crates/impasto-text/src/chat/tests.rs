use super::engine::strftime;
use super::*;
use std::time::{Duration, UNIX_EPOCH};

/// A template with the special tokens `bos_token` and `eos_token`.
fn with_tokens(text: &str, bos: &str, eos: &str) -> Result<ChatTemplate> {
    let tokens = [("bos_token", bos), ("eos_token", eos)];
    ChatTemplate::new(text, tokens.map(|(name, token)| (name.to_owned(), token.into())).into_iter().collect(), None)
}

fn template(text: &str) -> ChatTemplate {
    with_tokens(text, "<s>", "</s>").unwrap()
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
        let template = with_tokens(text("template"), text("bos_token"), text("eos_token")).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let options = ChatOptions {
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            variables: case["variables"].as_object().unwrap().clone(),
            ..Default::default()
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
    assert!(matches!(render(nested), Err(TextError::ChatLimit(_))));
    let long = "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}";
    assert!(matches!(render(long), Err(TextError::ChatLimit(_))));
    let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(matches!(render(recursive), Err(TextError::Chat(_))));
    assert!(with_tokens(&"{%raw%}".repeat(149_000), "", "").is_err());
    for broken in ["{% for %}", "{% generation", "{{ x", "{% generation %}{% for %}"] {
        assert!(matches!(with_tokens(broken, "", ""), Err(TextError::Chat(_))), "{broken}");
    }
}

#[test]
fn tools_and_documents_are_none() {
    for (text, expected) in [
        ("{% if tools is not none %}tools {% endif %}{{ messages[0].content }}", "hi"),
        ("{{ tools is defined }} {{ documents is none }} {{ documents }}", "True True None"),
        ("{{ tools is iterable and tools|length > 0 }} {{ tools or 'no tools' }}", "False no tools"),
        ("{{ unset is defined }} {{ unset is none }} {{ unset is iterable }}", "False False True"),
    ] {
        assert_eq!(render(text).unwrap(), expected, "{text}");
    }
    let variables = [("tools".to_owned(), serde_json::json!([{"name": "f"}]))].into_iter().collect();
    let options = ChatOptions { variables, ..Default::default() };
    assert_eq!(template("{% if tools %}{{ tools[0].name }}{% endif %}").render(&[], &options).unwrap(), "f");
}

/// The expected texts are those of Python's `json.dumps`.
#[test]
fn json_as_python_writes_it() {
    for (arguments, expected) in [
        ("", r#"{"b": 1, "a": ["é", ""]}"#),
        ("ensure_ascii=False", r#"{"b": 1, "a": ["é", ""]}"#),
        ("ensure_ascii=True", r#"{"b": 1, "a": ["\u00e9", ""]}"#),
        ("separators=(',', ':')", r#"{"b":1,"a":["é",""]}"#),
        ("sort_keys=True", r#"{"a": ["é", ""], "b": 1}"#),
        ("indent=1", "{\n \"b\": 1,\n \"a\": [\n  \"é\",\n  \"\"\n ]\n}"),
        ("indent='-', separators=(';', '=')", "{\n-\"b\"=1;\n-\"a\"=[\n--\"é\";\n--\"\"\n-]\n}"),
    ] {
        let text = format!("{{{{ {{'b': 1, 'a': ['é', '']}}|tojson({arguments}) }}}}");
        assert_eq!(render(&text).unwrap(), expected, "{text}");
    }
    let numbers = render("{{ [[], {}, 1e20, 1e-7, 2.0]|tojson(indent=0) }}").unwrap();
    assert_eq!(numbers, "[\n[],\n{},\n1e+20,\n1e-07,\n2.0\n]");
    assert_eq!(render("{{ '𝄞\u{7f}'|tojson(ensure_ascii=True) }}").unwrap(), r#""\ud834\udd1e\u007f""#);
    for arguments in ["spaces=1", "separators=(',',)", "indent=1.5"] {
        let refused = render(&format!("{{{{ 1|tojson({arguments}) }}}}"));
        assert!(matches!(refused, Err(TextError::Chat(_))), "{arguments}");
    }
}

#[test]
fn percent_formats_strings() {
    for (text, expected) in [
        ("{{ '%s-%d' % ('a', 3) }}", "a-3"),
        ("{{- '%s!' % messages[0].content|upper ~ '?' -}}", "HI!?"),
        ("{% set x = '%02d' % -7 %}{{ x }}{{ 7 % 4 }}{{ '%' }}", "-73%"),
        (
            "{% if '%s' % 'a' == 'a' %}yes{% endif %}{% if 'a' %}, {{ ['%s' % 1, '%%' % ()]|join }}{% endif %}",
            "yes, 1%",
        ),
        ("{{ '%s %s' % ('a', '%s' % ('b' ~ 'c')) }}{# 'a' % #}", "a bc"),
        ("'%s' % 1 {", "'%s' % 1 {"),
    ] {
        assert_eq!(render(text).unwrap(), expected, "{text}");
    }
    assert!(matches!(render("{{ '%s %s' % 'a' }}"), Err(TextError::Chat(_))));
    let nested = format!("{{{{ {} }}}}", "'a' % (".repeat(100_000));
    assert!(matches!(with_tokens(&nested, "", ""), Err(TextError::ChatLimit(_))));
}

/// The operator decides by its left operand at run time, and binds as in Python.
#[test]
fn percent_of_values() {
    for (text, expected) in [
        ("{% set f = '%s!' %}{{ f % 'a' }} {{ f|trim % 'b' ~ 'c' }}", "a! b!c"),
        ("{% set ns = namespace(f='<%s|%s>') %}{{ ns.f % (1, 2 + 3) }}", "<1|5>"),
        ("{{ ('%s' ~ '%s') % ('a', 'b') }} {{ ['%s'][0] % [1, 2] }}", "ab [1, 2]"),
        (
            "{{ 7 % 4 }} {{ -7 % 4 }} {{ 7 % -4 }} {{ 7.5 % 2 }} {{ 3 * 5 % 4 }} {{ 2 ** 3 % 5 }} {{ 9 % 2 ** 2 }}",
            "3 1 -1 1.5 3 3 1",
        ),
        (
            "{{ 3 + 5 % 4 * 2 }} {{ 20 % 7 % 4 }} {{ 20 % (7 % 4) }} {{ 2 * (3 % 2) % 2 }} {{ [5 % 3, 7 % 4] }}",
            "5 2 2 0 [2, 3]",
        ),
        ("{{ [1, 2, 3][2 * 2 % 3] }} {{ range(3 * 5 % 4)|list }} {{ 1 + (-7 % 4) }}", "2 [0, 1, 2] 2"),
        ("{% for x in range(4) %}{% if loop.index0 % 2 == 0 %}{{ x }}{% endif %}{% endfor %}", "02"),
        (
            "{{ 'odd' if 3 % 2 else 'even' }} {{ not 4 % 2 }} {{ 5 % 3 in [2] }} {{ {'a': 5 % 3}['a'] }}",
            "odd True True 2",
        ),
        ("{{ '%s' 'x' % 'a' }} {{ '%s' % 'b' 'c' }} {{ '%s' % {'a': {'b': 1}}.a.b }}", "ax bc 1"),
    ] {
        assert_eq!(render(text).unwrap(), expected, "{text}");
    }
    for text in
        ["{{ 1 % 0 }}", "{{ [] % 2 }}", "{% set f = '%d' %}{{ f % 'a' }}", "{{ % 2 }}", "{{ 2 % }}", "{{ 2) % 3 }}"]
    {
        assert!(template_error(text).starts_with("chat template: "), "{text}");
    }
}

fn template_error(text: &str) -> String {
    match with_tokens(text, "", "") {
        Err(error) => error.to_string(),
        Ok(template) => template.render(&[], &ChatOptions::default()).unwrap_err().to_string(),
    }
}

#[test]
fn text_that_is_not_code_stays() {
    for text in [
        "{% raw %}{{ '%s' % a }}{% generation %}{% endraw %}",
        "{%- raw -%}{% raw %}{{ 'x' % 1{%- endraw %}",
        "{#}{{ '%s' % 1 }}#}",
        "a % b { % } {{ '{% raw %}' }} 'x' % 1",
    ] {
        assert_eq!(source::rewritten(text).unwrap(), text);
    }
    assert_eq!(
        render("{% raw %}{{ '%s' % a }}{% generation %}{% endraw %}").unwrap(),
        "{{ '%s' % a }}{% generation %}"
    );
    assert_eq!(render("{% raw %}{% endraw %}{{ '%s' % 1 }}").unwrap(), "1");
}

/// What the checks let pass is parsed without an overflow of the stack, and what they refuse names the limit.
#[test]
fn long_chains() {
    let most = source::MAX_TOKENS;
    for (start, part, end, tokens) in [
        ("", "not ", "a", 1),
        ("a", " + a", "", 2),
        ("a", " ~ a", "", 2),
        ("a", " % a", "", 2),
        ("a", " ** a", "", 2),
        ("a", " and a", "", 2),
        ("a", "|upper", "", 2),
        ("a", ".b", "", 2),
        ("a", "()", "", 2),
        ("a", "[0]", "", 3),
        ("", "-", "a", 1),
        ("a", " if b else a", "", 4),
        ("a", " is a", "", 2),
        ("a", " < a", "", 2),
        ("", "(", "a", 1),
        ("", "[", "a", 1),
        ("", "f(", "a", 2),
        ("", "{1:", "a", 3),
    ] {
        let chain = |count: usize| format!("{{{{ {start}{}{end} }}}}", part.repeat(count));
        // It parses, or the parser refuses it.
        let _ = with_tokens(&chain((most - 1) / tokens), "", "");
        let long = template_error(&chain(100_000 / part.len()));
        assert!(long.contains("longer than the limit of 2000 tokens"), "{part}: {long}");
    }
    let blocks = |start: &str, part: &str, count: usize| format!("{start}{}", part.repeat(count));
    for (start, part) in
        [("", "{% if a %}"), ("{% if a %}", "{% elif a %}"), ("", "{% for a in b %}"), ("", "{% set a %}")]
    {
        assert!(matches!(with_tokens(&blocks(start, part, source::MAX_BLOCKS - 1), "", ""), Err(TextError::Chat(_))));
        let deep = template_error(&blocks(start, part, 10_000));
        assert!(deep.contains("more than 200 blocks within each other"), "{deep}");
    }
    let elif = format!("{{% if false %}}{}{{% endif %}}{{{{ 1 }}}}", "{% elif false %}".repeat(source::MAX_BLOCKS - 1));
    assert_eq!(render(&elif.repeat(3)).unwrap(), "111");
    let large = " ".repeat(source::MAX_SOURCE + 1);
    assert!(template_error(&large).contains("1048577 bytes"));
}

/// The expected texts are those of CPython.
#[test]
fn methods_of_strings_and_lists() {
    for (text, expected) in [
        ("'abc'.removeprefix('a') ~ 'abc'.removesuffix('c') ~ 'abc'.removeprefix('b')", "bcababc"),
        (
            "'abcb'.index('b') ~ 'abcb'.rindex('b') ~ 'éb'.find('b') ~ 'abcb'.find('b', 2) ~ 'ab'.rfind('b', 0, -1)",
            "1313-1",
        ),
        ("'a,b,c'.rsplit(',', 1)|list ~ 'a,b,c'.split(',', maxsplit=1)|list", "['a,b', 'c']['a', 'b,c']"),
        (
            "' a  b c '.split() ~ ' a  b c '.split(none, 1) ~ ' a  b c '.rsplit(maxsplit=1)",
            "['a', 'b', 'c']['a', 'b c '][' a  b', 'c']",
        ),
        (
            "'a=b=c'.partition('=') ~ 'a=b=c'.rpartition('=') ~ 'a'.rpartition('=')",
            "('a', '=', 'b=c')('a=b', '=', 'c')('', '', 'a')",
        ),
        (
            "'a'.ljust(3, '.') ~ 'a'.rjust(3) ~ 'a'.center(4, '-') ~ '-7'.zfill(4) ~ 'ab'.center(5, '-')",
            "a..  a-a---007--ab-",
        ),
        ("'aB'.swapcase() ~ 'AB'.casefold() ~ '12'.isdecimal() ~ ''.isdecimal()", "AbabTrueFalse"),
        ("[1, 2].index(2) ~ [1].copy() ~ {'a': 1}.copy().get('a') ~ {}.get('a', 2) ~ ' x '.strip()", "1[1]12x"),
    ] {
        assert_eq!(render(&format!("{{{{ {text} }}}}")).unwrap(), expected, "{text}");
    }
    for text in [
        "'a'.index('b')",
        "[1].index(2)",
        "'a'.split('')",
        "'a'.ljust(1000000000000)",
        "'a'.ljust(3, 'ab')",
        "'a'.fly()",
    ] {
        assert!(matches!(render(&format!("{{{{ {text} }}}}")), Err(TextError::Chat(_))), "{text}");
    }
}

#[test]
fn tests_of_values() {
    let text = "{% for x in [raise_exception, 'a', none, unset, [], {}, 1] %}\
        {{ x is callable }} {{ x is sequence }} {{ x is iterable }}{{ ' ' if not loop.last }}{% endfor %}";
    let rows = [
        "True False False",
        "False True True",
        "False False False",
        "True True True",
        "False True True",
        "False True True",
        "False False False",
    ];
    assert_eq!(render(text).unwrap(), rows.join(" "));
    let macros = "{% macro m() %}{{ caller is callable }}{% endmacro %}{{ m is callable }} {% call m() %}{% endcall %} \
        {{ namespace() is callable }} {{ namespace is callable }} {{ {} is callable }} {{ 'a' is callable }}";
    assert_eq!(render(macros).unwrap(), "True True False True False False");
}

#[test]
fn special_tokens_are_variables() {
    let config = r#"{"pad_token": "P", "unk_token": {"content": "U"}, "bos_token": null,
        "additional_special_tokens": ["X", {"content": "Y"}], "extra_special_tokens": {"image_token": "I"},
        "chat_template": "{{ pad_token ~ unk_token ~ image_token ~ additional_special_tokens[1] }} {{ bos_token is defined }}"}"#;
    let template = ChatTemplate::from_assets(Some(config.as_bytes()), None, None).unwrap();
    assert_eq!(template.render(&[], &ChatOptions::default()).unwrap(), "PUIY False");
    let wrong = r#"{"pad_token": 3, "chat_template": ""}"#;
    let error = ChatTemplate::from_assets(Some(wrong.as_bytes()), None, None).unwrap_err().to_string();
    assert!(error.starts_with("tokenizer_config.json: pad_token: "), "{error}");
}

#[test]
fn named_templates_without_a_default() {
    let config = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}]}"#;
    let error = ChatTemplate::from_assets(Some(config.as_bytes()), None, None).unwrap_err();
    assert!(matches!(error, TextError::BadAsset { .. }));
    assert!(error.to_string().contains("tool_use, rag"), "{error}");
    assert!(ChatTemplate::from_assets(Some(config.as_bytes()), Some(b"file"), None).is_ok());
}

#[test]
fn where_the_template_comes_from() {
    let from = |config: Option<&str>, file: Option<&str>| {
        ChatTemplate::from_assets(config.map(str::as_bytes), file.map(str::as_bytes), None)
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
    let not_text = ChatTemplate::from_assets(None, Some(&[0xff]), None);
    assert!(matches!(not_text, Err(TextError::BadAsset { .. })));
}
