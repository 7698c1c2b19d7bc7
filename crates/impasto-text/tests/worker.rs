//! Hostile templates in a process of their own. The test is that process, too, so it has no harness.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use impasto_text::{ChatOptions, ChatTemplate, Message, TemplateWorker, TextError};

const WORK: &str = "--template-worker";

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == WORK) {
        return TemplateWorker::serve().into();
    }
    let worker = TemplateWorker::new(std::env::current_exe().expect("a path"), [WORK]);
    the_same_text(&worker);
    a_time_is_carried(&worker);
    reasons(&worker);
    workers_that_do_not_answer();
    #[cfg(unix)]
    every_attack_ends(&worker);
    ExitCode::SUCCESS
}

fn render(text: &str, worker: Option<&TemplateWorker>) -> Result<String, TextError> {
    let template = ChatTemplate::new(text, [("bos_token".to_owned(), "<s>".into())].into_iter().collect(), worker)?;
    template.render(&[Message::new("user", "héllo\n")], &ChatOptions::default())
}

/// An ordinary template gives the same text as in this process, also for a long conversation.
fn the_same_text(worker: &TemplateWorker) {
    let text = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content|trim }}{{ m|tojson }}{% endfor %}{{ tools is none }}";
    assert_eq!(render(text, Some(worker)).unwrap(), render(text, None).unwrap());
    let long: Vec<Message> = (0..2000).map(|n| Message::new("user", n.to_string().repeat(1000))).collect();
    let rendered = |worker| {
        let template = ChatTemplate::new(text, Default::default(), worker).unwrap();
        template.render(&long, &ChatOptions::default()).unwrap()
    };
    assert!(rendered(Some(worker)) == rendered(None));
}

fn a_time_is_carried(worker: &TemplateWorker) {
    let template = ChatTemplate::new("{{ strftime_now('%F %T') }}", Default::default(), Some(worker)).unwrap();
    let now = Some(std::time::UNIX_EPOCH + Duration::from_secs(951_782_401));
    let options = ChatOptions { now, ..ChatOptions::default() };
    assert_eq!(template.render(&[], &options).unwrap(), "2000-02-29 00:00:01");
}

fn reasons(worker: &TemplateWorker) {
    let error = render("{{ raise_exception('no é') }}", Some(worker)).unwrap_err();
    assert!(matches!(&error, TextError::Chat(message) if message.contains("no é")), "{error}");
    let error = render("{% for %}", Some(worker)).unwrap_err();
    assert!(matches!(&error, TextError::Chat(message) if message.contains("syntax error")), "{error}");
}

fn workers_that_do_not_answer() {
    for (program, arguments, says) in [
        ("/nonexistent/program", &[][..], "cannot run the template in a process of its own: "),
        #[cfg(unix)]
        ("sh", &["-c", "exit 7"], "exit status: 7"),
        #[cfg(unix)]
        ("sh", &["-c", "kill -9 $$"], "it runs longer than the limit of 1 s"),
        #[cfg(unix)]
        ("sh", &["-c", "exec sleep 100"], "no answer within the limit of 5 s"),
    ] {
        let worker = TemplateWorker::new(program, arguments.iter().copied());
        let begun = Instant::now();
        let error = render("a", Some(&worker)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}

/// What a template may try, and a word of the error (or nothing if it may succeed).
#[cfg(unix)]
const ATTACKS: &[(&str, &str)] = &[
    ("{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", "limit of"),
    ("{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "limit of"),
    (
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}",
        "limit of",
    ),
    (
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s|replace('a', 'aa') %}{% endfor %}",
        "limit of",
    ),
    (
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = (ns.s + ns.s)|list %}{% endfor %}",
        "limit of",
    ),
    ("{{ 'a\\nb'|indent(100000000000) }}", ""),
    ("{{ '%1000000000000d'|format(1) }}", ""),
    ("{{ '%1000000000000d' % 1 }}", ""),
    ("{{ '%.1000000000000f' % 1 }}", ""),
    ("{{ '%1000000000s'|format('a') }}", ""),
    ("{{ '{:1000000000d}'.format(1) }}", ""),
    ("{{ [1]|batch(1000000000000, 'x')|list }}", ""),
    ("{{ [1]|slice(1000000000000)|list }}", ""),
    ("{{ 'a' * 10**11 }}", ""),
    ("{{ ['a'] * 10**11 }}", ""),
    ("{{ ('a' * 10**6)|list|join('b' * 10**6) }}", ""),
    ("{{ range(10**9)|list }}", ""),
    ("{{ {'a': 1}|tojson(indent=10**9) }}", ""),
    ("{{ {'a': [1, 2]}|tojson(indent='x' * 10**6)|length }}", ""),
    ("{{ strftime_now('%1000000000d') }}", ""),
    ("{{ strftime_now('%999d' * 100000)|length }}", ""),
    ("{{ 'a'.center(10**11) }}", ""),
    ("{{ ('a' * 10**6).expandtabs(10**9) }}", ""),
    ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "stack"),
    ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns|tojson }}", ""),
    ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns == ns }}", ""),
    ("{% set ns = namespace() %}{% set ns.a = ns %}{{ [ns, ns]|sort }}", ""),
    ("{% set ns = namespace() %}{% set ns.a = ns %}{{ '%s' % ns }}", "stack"),
    (
        "{% set ns = namespace(a=[]) %}{% for i in range(100000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}",
        "stack",
    ),
    (
        "{% set ns = namespace(a=[]) %}{% for i in range(100000) %}{% set ns.a = {'a': ns.a} %}{% endfor %}{{ ns.a|tojson }}",
        "",
    ),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ""),
    ("{% macro m(x) %}{% for y in [1] %}{{ m([x, x]) }}{% endfor %}{% endmacro %}{{ m(1) }}", ""),
    ("{% for i in range(100000) %}{% set x = range(100000)|list|sort %}{% endfor %}", ""),
    ("{% for i in range(100000) %}{% set x = range(100000)|unique|list %}{% endfor %}", "limit of"),
    ("{% set l = range(100000)|list %}{% for i in l %}{% if -1 in l %}{% endif %}{% endfor %}", "limit of"),
    ("{% include 'chat' %}", ""),
    ("{% extends 'chat' %}", ""),
    ("{% import 'chat' as c %}{{ c }}", ""),
    ("{% block a %}{{ self.a() }}{% endblock %}", ""),
    ("{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", ""),
    ("{{ lipsum(10**9) }}{{ cycler }}{{ dict(a=1)|items|list|random }}", ""),
    ("{{ ''|wordwrap(0) }}{{ 'a b'|truncate(10**12) }}", ""),
];

#[cfg(unix)]
fn every_attack_ends(worker: &TemplateWorker) {
    for (text, says) in ATTACKS {
        let begun = Instant::now();
        let result = render(text, Some(worker));
        println!("{:>6.0?} {text}\n       {}", begun.elapsed(), short(&result));
        assert!(begun.elapsed() < Duration::from_secs(30), "{text}");
        match result {
            Ok(rendered) => assert!(says.is_empty() && rendered.len() < 64 << 20, "{text}"),
            Err(TextError::Chat(message) | TextError::ChatLimit(message)) => {
                assert!(message.contains(says), "{text}: {message}")
            }
            Err(error) => panic!("{text}: {error}"),
        }
    }
}

#[cfg(unix)]
fn short(result: &Result<String, TextError>) -> String {
    match result {
        Ok(text) => format!("{} bytes", text.len()),
        Err(error) => format!("{error:.200}"),
    }
}
