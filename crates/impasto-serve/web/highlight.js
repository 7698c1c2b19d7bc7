/**
 * Light colouring of code: comments, strings, numbers, keywords. A language is a set of words and its marks, no grammar.
 * Linear: one pass with a regular expression that never goes back over what it took.
 */

/** Longer texts are shown without colours. */
const MAX_LENGTH = 60_000;

const words = (text) => new Set(text.split(' '));
const C_COMMENT = String.raw`\/\/[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`;
const HASH_COMMENT = String.raw`#[^\n]*`;
const SIMPLE_STRING = String.raw`"(?:\\[\s\S]|[^"\\\n])*"?|'(?:\\[\s\S]|[^'\\\n])*'?`;
const TEMPLATE = '`(?:\\\\[\\s\\S]|[^`\\\\])*`?';

function language(keywords, comment, string) {
  const pattern = String.raw`(?<comment>${comment})|(?<string>${string})|(?<number>\b\d[\w.]*)|(?<word>[A-Za-z_$][\w$]*)`;
  return { keywords: words(keywords), pattern: new RegExp(pattern, 'g') };
}

const JAVASCRIPT = language(
  'as async await break case catch class const continue default delete do else export extends false finally for from function if '
    + 'implements import in instanceof interface let new null of return static super switch this throw true try type typeof '
    + 'undefined var void while yield',
  C_COMMENT, `${SIMPLE_STRING}|${TEMPLATE}`);
const PYTHON = language(
  'False None True and as assert async await break class continue def del elif else except finally for from global if import in is '
    + 'lambda match nonlocal not or pass raise return self try while with yield',
  HASH_COMMENT, String.raw`"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|${SIMPLE_STRING}`);
const RUST = language(
  'as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return '
    + 'self Self static struct super trait true type unsafe use where while',
  // A lifetime is no string.
  C_COMMENT, String.raw`"(?:\\[\s\S]|[^"\\])*"?|'(?:\\[^\n]{1,8}?|[^'\\\n])'`);
const C = language(
  'auto bool break case catch char class const continue default delete do double else enum extern false final float for func go if '
    + 'import inline int interface long map namespace new nil null nullptr package private protected public range return short signed '
    + 'sizeof static string struct super switch template this throw true try type typedef typename union unsigned using var virtual '
    + 'void volatile while',
  C_COMMENT, `${SIMPLE_STRING}|${TEMPLATE}`);
const SHELL = language(
  'case do done elif else esac export fi for function if in local return set then until while cd echo exit source sudo',
  String.raw`(?<![\w$])#[^\n]*`, String.raw`"(?:\\[\s\S]|[^"\\])*"?|'[^']*'?`);
const SQL = language(
  'all and as asc between by case count create delete desc distinct drop else end exists from group having in index inner insert into '
    + 'is join left like limit not null offset on or order outer primary right select set table then union unique update values '
    + 'view when where with',
  String.raw`--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`, String.raw`'(?:''|[^'])*'?`);
const DATA = language('true false null yes no', HASH_COMMENT, SIMPLE_STRING);
const JSON_LANGUAGE = language('true false null', '(?!)', SIMPLE_STRING);
const CSS = language('important', C_COMMENT, SIMPLE_STRING);
const MARKUP = language('', String.raw`<!--[\s\S]*?(?:-->|$)`, String.raw`"[^"\n]*"?`);

const LANGUAGES = {
  js: JAVASCRIPT, javascript: JAVASCRIPT, jsx: JAVASCRIPT, ts: JAVASCRIPT, tsx: JAVASCRIPT, typescript: JAVASCRIPT,
  py: PYTHON, python: PYTHON, rs: RUST, rust: RUST,
  c: C, cpp: C, 'c++': C, h: C, java: C, go: C, kotlin: C, cs: C, 'c#': C, csharp: C, swift: C,
  sh: SHELL, bash: SHELL, shell: SHELL, zsh: SHELL, console: SHELL, sql: SQL,
  toml: DATA, yaml: DATA, yml: DATA, ini: DATA, json: JSON_LANGUAGE, css: CSS, html: MARKUP, xml: MARKUP, svg: MARKUP,
};

/**
 * @param {string} text
 * @param {string} name language, in lower case
 * @returns {Array} nodes as in inline.js
 */
export function highlight(text, name) {
  const known = Object.hasOwn(LANGUAGES, name) ? LANGUAGES[name] : undefined;
  if (!known || text.length > MAX_LENGTH) return [text];
  const out = [];
  let plain = 0;
  for (const match of text.matchAll(known.pattern)) {
    const kind = kindOf(match.groups, known);
    if (kind === null) continue;
    if (match.index > plain) out.push(text.slice(plain, match.index));
    out.push({ tag: 'span', attrs: { class: `token-${kind}` }, children: [match[0]] });
    plain = match.index + match[0].length;
  }
  if (plain < text.length || out.length === 0) out.push(text.slice(plain));
  return out;
}

function kindOf(groups, known) {
  if (groups.comment !== undefined) return 'comment';
  if (groups.string !== undefined) return 'string';
  if (groups.number !== undefined) return 'number';
  const word = known === SQL ? groups.word.toLowerCase() : groups.word;
  return known.keywords.has(word) ? 'keyword' : null;
}
