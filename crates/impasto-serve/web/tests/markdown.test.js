import assert from 'node:assert/strict';
import { test } from 'node:test';
import { highlight } from '../highlight.js';
import { safeAddress } from '../inline.js';
import { parseBlocks, parseMarkdown } from '../markdown.js';

/** Nodes as HTML, for comparing only. */
function html(nodes) {
  const escape = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
  return nodes.map((node) => {
    if (typeof node === 'string') return escape(node);
    const attributes = Object.entries(node.attrs).map(([name, value]) => ` ${name}="${escape(value)}"`).join('');
    return `<${node.tag}${attributes}>${html(node.children)}</${node.tag}>`;
  }).join('');
}

const show = (text) => html(parseMarkdown(text)).replaceAll('<br></br>', '<br>').replaceAll('<hr></hr>', '<hr>')
  .replaceAll(' target="_blank" rel="noopener noreferrer nofollow"', '');
const showOpen = (text) => html(parseBlocks(text, true).map((block) => block.node));

const CASES = {
  'paragraphs keep line breaks': ['a\nb\n\nc', '<p>a<br>b</p><p>c</p>'],
  'headings begin at level 3': ['# A\n## B ##\ntext', '<h3>A</h3><h4>B</h4><p>text</p>'],
  'a hash without a space is text': ['#tag', '<p>#tag</p>'],
  'emphasis': ['*a* _b_ **c** __d__ ***e*** ~~f~~', '<p><em>a</em> <em>b</em> <strong>c</strong> <strong>d</strong> <em><strong>e</strong></em> <del>f</del></p>'],
  'emphasis within emphasis': ['**a *b* c**', '<p><strong>a <em>b</em> c</strong></p>'],
  'marks that are not emphasis': ['2 * 3 * 4, snake_case_name, a ** b', '<p>2 * 3 * 4, snake_case_name, a ** b</p>'],
  'a star within bold': ['**foo*bar**', '<p><strong>foo*bar</strong></p>'],
  'unfinished marks are text': ['**a', '<p>**a</p>'],
  'code': ['`a*b*` and `` a`b ``', '<p><code>a*b*</code> and <code>a`b</code></p>'],
  'an unfinished backtick': ['a ` b', '<p>a ` b</p>'],
  'escapes': ['\\*a\\* \\<b', '<p>*a* &lt;b</p>'],
  'entities': ['a &amp;&lt; b &unknown;', '<p>a &amp;&lt; b &amp;unknown;</p>'],
  'html is text': ['<b>x</b>\n\n<script>alert(1)</script>', '<p>&lt;b>x&lt;/b></p><p>&lt;script>alert(1)&lt;/script></p>'],
  'a link': ['[a *b*](https://example.org/x "title")', '<p><a href="https://example.org/x">a <em>b</em></a></p>'],
  'a link with parentheses': ['[a](https://example.org/x_(y))', '<p><a href="https://example.org/x_(y)">a</a></p>'],
  'a bare address': ['see https://example.org/a_b_c?d=1. And (http://example.org)', '<p>see <a href="https://example.org/a_b_c?d=1">https://example.org/a_b_c?d=1</a>. And (<a href="http://example.org/">http://example.org</a>)</p>'],
  'an address in angles': ['<mailto:a@example.org>', '<p><a href="mailto:a@example.org">mailto:a@example.org</a></p>'],
  'unsafe links are text': ['[a](javascript:alert(1)) [b](data:text/html,x) [c](/local) [d](JaVaScRiPt:x) [e](//host)', '<p><span>a</span> <span>b</span> <span>c</span> <span>d</span> <span>e</span></p>'],
  'a picture is a link': ['![p](https://example.org/p.png)', '<p><a href="https://example.org/p.png">p</a></p>'],
  'brackets are text': ['a [b] [c] (d) ] [', '<p>a [b] [c] (d) ] [</p>'],
  'a quote': ['> a\n> b\n>\n> - c', '<blockquote><p>a<br>b</p><ul><li>c</li></ul></blockquote>'],
  'rules': ['---\n* * *\n___', '<hr><hr><hr>'],
  'a tight list': ['- a\n- b', '<ul><li>a</li><li>b</li></ul>'],
  'a loose list': ['- a\n\n- b', '<ul><li><p>a</p></li><li><p>b</p></li></ul>'],
  'nested lists': ['1. a\n   - b\n     - c\n2. d', '<ol><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ol>'],
  'nested by two columns': ['1. a\n  - b\n2. c', '<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>'],
  'a list that begins at 3': ['3. a\n4. b', '<ol start="3"><li>a</li><li>b</li></ol>'],
  'a list after text': ['a:\n- b\n- c\n\nd', '<p>a:</p><ul><li>b</li><li>c</li></ul><p>d</p>'],
  'a year is no list': ['It was\n1969. Then', '<p>It was<br>1969. Then</p>'],
  'paragraphs in an item': ['- a\n\n  b\n- c', '<ul><li><p>a</p><p>b</p></li><li><p>c</p></li></ul>'],
  'tasks': ['- [ ] a\n- [x] b', '<ul><li>\u2610 a</li><li>\u2611 b</li></ul>'],
  'a table': ['| a | b |\n|:-:|--:|\n| `x|y` | 1\\|2 |\n| only |', '<div class="table" tabindex="0" role="group" aria-label="Table"><table><thead><tr><th class="align-center" scope="col">a</th><th class="align-right" scope="col">b</th></tr></thead><tbody><tr><td class="align-center"><code>x|y</code></td><td class="align-right">1|2</td></tr><tr><td class="align-center">only</td><td class="align-right"></td></tr></tbody></table></div>'],
  'bars are no table': ['a | b\nc | d', '<p>a | b<br>c | d</p>'],
};

for (const [name, [text, expected]] of Object.entries(CASES)) {
  test(`markdown: ${name}`, () => assert.equal(show(text), expected));
}

test('markdown: fenced code keeps its text and names its language', () => {
  const [figure] = parseMarkdown('```Python title="x"\nif x:\n  return "<b>" # y\n```\nafter');
  assert.equal(figure.children[0].children[0].children[0], 'python');
  const code = figure.children[1].children[0];
  assert.equal(textOf(code), 'if x:\n  return "<b>" # y');
  assert.deepEqual(code.children.filter((node) => node.tag).map((node) => [node.attrs.class, textOf(node)]),
    [['token-keyword', 'if'], ['token-keyword', 'return'], ['token-string', '"<b>"'], ['token-comment', '# y']]);
});

test('markdown: a fence within a list item', () => {
  const [list] = parseMarkdown('1. Do:\n   ```sh\n   ls\n\n   pwd\n   ```\n2. Then');
  assert.equal(list.children.length, 2);
  assert.equal(textOf(list.children[0].children.at(-1).children[1]), 'ls\n\npwd');
});

test('markdown: an unfinished fence is code already', () => {
  assert.match(showOpen('```js\nlet a'), /<pre tabindex="0"><code><span class="token-keyword">let<\/span> a<\/code><\/pre>/);
});

test('markdown: what is unfinished shows as if it were finished', () => {
  assert.equal(showOpen('a **b'), '<p>a <strong>b</strong></p>');
  assert.equal(showOpen('a **b*'), '<p>a <strong>b</strong></p>');
  assert.equal(showOpen('a **'), '<p>a</p>');
  assert.equal(showOpen('a `b'), '<p>a <code>b</code></p>');
  assert.equal(showOpen('a [b](https://exam'), '<p>a <span>b</span></p>');
  assert.equal(showOpen('a\n\n-'), '<p>a</p>');
  assert.equal(showOpen('a\n\n``'), '<p>a</p>');
  assert.match(showOpen('| a | b |'), /<table><thead>/);
});

const SAMPLE = `# Title\n\nSome **bold** text, *then* \`code\`, [a link](https://example.org "t") and https://example.org/x.\nSecond line.\n\n`
  + `1. one\n   - nested\n\n     more\n2. two\n\n> quote\n> - in it\n\n| a | b |\n|---|--:|\n| 1 | **2** |\n\n\`\`\`rust\nfn main() {\n\n}\n\`\`\`\n\n---\nlast_word_ here`;

test('markdown: reading on from the last block gives what reading all gives', () => {
  let from = 0;
  let settled = [];
  for (let end = 1; end <= SAMPLE.length; end += 1) {
    const blocks = parseBlocks(SAMPLE.slice(from, end), true);
    assert.equal(html([...settled, ...blocks.map((block) => block.node)]), showOpen(SAMPLE.slice(0, end)), `at ${end}`);
    if (blocks.length > 1) {
      const last = blocks.pop();
      settled = [...settled, ...blocks.map((block) => block.node)];
      from += last.start;
    }
  }
  assert.equal(html([...settled, ...parseBlocks(SAMPLE.slice(from)).map((block) => block.node)]), html(parseMarkdown(SAMPLE)));
});

test('markdown: no text is lost or made up', () => {
  // A small generator of its own, so that a failure can be repeated.
  let state = 1;
  const random = (count) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % count;
  };
  const pieces = ['Q', ' ', '\n', '\n\n', '*', '**', '_', '`', '```', '[', '](', ')', '(', 'https://x.y', '<', '&amp;', '|', '---', '- ', '1. ', '> ', '#', '\\', '~~', '    ', '!', '\t', '\u{1f600}'];
  for (let round = 0; round < 3000; round += 1) {
    const text = Array.from({ length: 1 + random(30) }, () => pieces[random(pieces.length)]).join('');
    for (const open of [false, true]) {
      const nodes = parseBlocks(text, open).map((block) => block.node);
      check(nodes);
      // Only the name of a language and the address of a link are not shown.
      const letters = (string) => string.split('Q').length;
      const hides = open || text.includes('```') || text.includes('](');
      if (!hides) assert.equal(letters(nodes.map(textOf).join('')), letters(text), JSON.stringify(text));
    }
  }
});

const TAGS = new Set('p br em strong del code a span h3 h4 h5 h6 hr ul ol li blockquote figure figcaption button pre div table thead tbody tr th td'.split(' '));
const ATTRIBUTES = new Set('class href target rel start type tabindex role scope aria-label'.split(' '));

/** Only the tags and attributes that the page means to make. */
function check(nodes) {
  for (const node of nodes) {
    if (typeof node === 'string') continue;
    assert.ok(TAGS.has(node.tag), node.tag);
    for (const name of Object.keys(node.attrs)) assert.ok(ATTRIBUTES.has(name), name);
    if (node.attrs.href !== undefined) assert.match(node.attrs.href, /^(https?:|mailto:)/);
    check(node.children);
  }
}

test('markdown: addresses', () => {
  for (const address of ['javascript:alert(1)', ' javascript:alert(1)', 'java\nscript:x', 'data:text/html,x', 'vbscript:x', 'file:///etc/passwd', 'blob:https://x/y', '//x', 'x', 'http://', '']) {
    assert.equal(safeAddress(address), null, address);
  }
  assert.equal(safeAddress('HTTPS://EXAMPLE.org/"x'), 'https://example.org/%22x');
});

/** Steps would be better than time; but what is quadratic takes minutes here, and what is linear a moment. */
const HOSTILE = {
  stars: '*a '.repeat(60_000), 'closing stars': '*a*'.repeat(60_000), mixed: '*a _b **c __d '.repeat(20_000), 'one run': '*'.repeat(200_000),
  brackets: '['.repeat(200_000), links: '[a]('.repeat(60_000), 'link ends': ']('.repeat(100_000), 'nested links': `${'['.repeat(50_000)}a${'](x)'.repeat(50_000)}`,
  backticks: '`a``'.repeat(60_000), 'longer and longer backticks': Array.from({ length: 600 }, (_, index) => '`'.repeat(index + 1)).join(' '),
  quotes: '>'.repeat(200_000), 'quote lines': '> > > > > > > > > > > > a\n'.repeat(10_000), lists: '- '.repeat(100_000),
  'nested lists': Array.from({ length: 600 }, (_, index) => `${' '.repeat(2 * index)}- a`).join('\n'), 'blank items': '-\n\n'.repeat(60_000),
  tables: '|'.repeat(200_000), rows: `|a|\n|-|\n${'|a|\n'.repeat(40_000)}`, delimiters: `${'|-'.repeat(50_000)}x\n`.repeat(2), dashes: `a|\n|-${' '.repeat(100_000)}x`,
  fences: '```\n'.repeat(60_000), angles: '<http://'.repeat(40_000), addresses: 'http://a('.repeat(30_000), 'address ends': `http://a${').'.repeat(60_000)}`,
  escapes: '\\'.repeat(200_000), entities: '&'.repeat(200_000), headings: `# ${'#'.repeat(100_000)} x`, spaces: `a${' '.repeat(200_000)}b`, 'blank lines': '\n'.repeat(200_000),
  'title quotes': '[a](b "'.repeat(30_000), tildes: '~~a'.repeat(60_000), bangs: '!['.repeat(100_000),
};

for (const [name, text] of Object.entries(HOSTILE)) {
  for (const open of [false, true]) {
    test(`markdown: hostile ${name}${open ? ', open' : ''}`, { timeout: 20_000 }, () => {
      const nodes = parseBlocks(text, open).map((block) => block.node);
      assert.ok(depthOf(nodes) < 80);
    });
  }
}

test('highlight: text stays the same in every language', () => {
  const text = 'fn f(x: &\'a str) -> u8 { "a\\"b" } // c\n/* d\n# e -- f <!-- g --> \'h\' `i ${1}` 0x1f 1.5e3 """j\nk""" "open';
  for (const name of ['js', 'python', 'rust', 'c', 'sh', 'sql', 'toml', 'json', 'css', 'html', 'unknown', 'constructor', '__proto__']) {
    assert.equal(highlight(text, name).map(textOf).join(''), text, name);
  }
});

for (const [name, text] of Object.entries({ quotes: '"'.repeat(50_000), comments: '/*'.repeat(25_000), words: 'a'.repeat(50_000), triple: '"""'.repeat(15_000), backslashes: `"${'\\'.repeat(50_000)}`, markup: '<!--'.repeat(12_000), numbers: '1'.repeat(50_000) })) {
  test(`highlight: hostile ${name}`, { timeout: 20_000 }, () => {
    for (const language of ['js', 'python', 'rust', 'sh', 'sql', 'html']) assert.equal(highlight(text, language).map(textOf).join(''), text);
  });
}

function textOf(node) {
  return typeof node === 'string' ? node : node.children.map(textOf).join('');
}

function depthOf(nodes) {
  return 1 + Math.max(0, ...nodes.filter((node) => node.tag).slice(0, 50_000).map((node) => depthOf(node.children)));
}
