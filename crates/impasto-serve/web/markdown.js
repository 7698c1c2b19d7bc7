/**
 * Markdown blocks: headings, lists, tables, quotes, fenced code, rules, paragraphs. Pure: text in, nodes out (see inline.js).
 *
 * Text that is added at the end can only change the last block, so a reader of a stream goes on from where that one begins.
 */
import { highlight } from './highlight.js';
import { parseInline } from './inline.js';

/** Lists and quotes within each other. Deeper ones are shown as they are written. */
const MAX_DEPTH = 10;
const MAX_COLUMNS = 64;
const FENCE = /^( {0,3})(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*))?$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const QUOTE = /^ {0,3}> ?/;
/** What may still become a mark when the rest of the line arrives. */
const UNSETTLED = /^\s*(?:[-*+>]|#{1,6}|\d{1,3}[.)]|`{1,2}|~{1,2})\s*$/;

/**
 * @param {string} text
 * @param {boolean} open whether more text may follow
 * @returns {Array<{node: object, start: number}>} top-level blocks, and where in the text each begins
 */
export function parseBlocks(text, open = false) {
  const raw = text.split('\n');
  const starts = [];
  let offset = 0;
  for (const line of raw) {
    starts.push(offset);
    offset += line.length + 1;
  }
  const lines = raw.map((line) => (line.endsWith('\r') ? line.slice(0, -1) : line));
  if (open) settle(lines);
  return readBlocks(lines, 0, open).map(({ node, line }) => ({ node, start: starts[line] }));
}

/** All nodes of a text that is complete. */
export function parseMarkdown(text) {
  return parseBlocks(text).map((block) => block.node);
}

/** Hides the end of an unfinished last line while it may still become a mark, so that nothing shows up only to vanish. */
function settle(lines) {
  const last = lines.length - 1;
  if (UNSETTLED.test(lines[last])) lines.pop();
  else lines[last] = lines[last].replace(/(?<![*_`~])[*_`~]{1,3}$/, '');
}

function readBlocks(lines, depth, open) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (blank(lines[at])) {
      at += 1;
      continue;
    }
    const { node, next } =
      fence(lines, at) ??
      heading(lines, at, open) ??
      rule(lines, at) ??
      quote(lines, at, depth, open) ??
      list(lines, at, depth, open) ??
      table(lines, at, open) ??
      paragraph(lines, at, open);
    blocks.push({ node, line: at });
    at = next;
  }
  return blocks;
}

const blank = (line) => line.trim() === '';
const element = (tag, children, attrs = {}) => ({ tag, attrs, children });

/** Width of the white space that begins a line; a tab counts as four. */
function indentOf(line) {
  let width = 0;
  for (const char of line) {
    if (char === ' ') width += 1;
    else if (char === '\t') width += 4;
    else break;
  }
  return width;
}

/** A line without up to `width` columns of white space. */
function outdent(line, width) {
  let at = 0;
  let seen = 0;
  while (seen < width && (line[at] === ' ' || line[at] === '\t')) {
    seen += line[at] === ' ' ? 1 : 4;
    at += 1;
  }
  return ' '.repeat(Math.max(0, seen - width)) + line.slice(at);
}

function fence(lines, at) {
  const match = FENCE.exec(lines[at]);
  if (!match) return null;
  const [, indent, mark, info] = match;
  const body = [];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next].trim();
    if (line.length >= mark.length && line === mark[0].repeat(line.length)) break;
    body.push(outdent(lines[next], indent.length));
  }
  const language = /^[\w+#.-]{1,24}/.exec(info.trim())?.[0].toLowerCase() ?? '';
  return { node: codeBlock(body.join('\n'), language), next: next + 1 };
}

/** A code block with its label. The page gives the button its action. */
export function codeBlock(text, language) {
  return element('figure', [
    element('figcaption', [
      element('span', [language || 'text']),
      element('button', ['Copy'], { type: 'button', class: 'copy-code', 'aria-label': 'Copy code' }),
    ]),
    // It scrolls sideways, so the keyboard must reach it.
    element('pre', [element('code', highlight(text, language))], { tabindex: '0' }),
  ], { class: 'code' });
}

function heading(lines, at, open) {
  const match = HEADING.exec(lines[at]);
  if (!match) return null;
  const text = (match[2] ?? '').replace(/(^|\s)#+\s*$/, '');
  // The page has levels 1 and 2.
  const tag = `h${Math.min(6, match[1].length + 2)}`;
  return { node: element(tag, parseInline(text, open && at + 1 >= lines.length)), next: at + 1 };
}

function isRule(line) {
  const marks = line.replace(/\s/g, '');
  return marks.length >= 3 && '-*_'.includes(marks[0]) && marks === marks[0].repeat(marks.length);
}

function rule(lines, at) {
  return isRule(lines[at]) ? { node: element('hr', []), next: at + 1 } : null;
}

function quote(lines, at, depth, open) {
  if (!QUOTE.test(lines[at]) || depth >= MAX_DEPTH) return null;
  let next = at;
  const inner = [];
  for (; next < lines.length && QUOTE.test(lines[next]); next += 1) inner.push(lines[next].replace(QUOTE, ''));
  const children = readBlocks(inner, depth + 1, open && next >= lines.length).map((block) => block.node);
  return { node: element('blockquote', children), next };
}

function list(lines, at, depth, open) {
  const first = ITEM.exec(lines[at]);
  if (!first || depth >= MAX_DEPTH) return null;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let loose = false;
  let next = at;
  while (next < lines.length) {
    const match = ITEM.exec(lines[next]);
    if (!match || /\d/.test(match[2]) !== ordered || isRule(lines[next])) break;
    const item = readItem(lines, next, match);
    items.push(item);
    next = item.next;
    while (next < lines.length && blank(lines[next])) next += 1;
    // Blank lines after the last item are not part of the list.
    if (next > item.next && next < lines.length && sameList(lines[next], ordered)) loose = true;
    else if (next > item.next) {
      next = item.next;
      break;
    }
  }
  loose ||= items.some((item) => item.gap);
  const children = items.map((item, index) => {
    const last = open && index === items.length - 1 && next >= lines.length;
    return element('li', itemChildren(item.lines, depth, loose, last));
  });
  const start = ordered ? parseInt(first[2], 10) : 1;
  return { node: element(ordered ? 'ol' : 'ul', children, start === 1 ? {} : { start: String(start) }), next };
}

function sameList(line, ordered) {
  const match = ITEM.exec(line);
  return match !== null && /\d/.test(match[2]) === ordered && !isRule(line);
}

/** The lines of one item without their indentation. Writers often indent by two columns where the marker is wider; both are taken. */
function readItem(lines, at, match) {
  const marker = match[1].length;
  const content = marker + match[2].length + (match[3].length > 4 ? 1 : Math.max(1, match[3].length));
  const inner = [lines[at].slice(Math.min(content, lines[at].length))];
  let fenced = fenceOf(inner[0], '');
  let next = at + 1;
  let gap = false;
  while (next < lines.length) {
    const line = lines[next];
    if (blank(line)) {
      let after = next;
      while (after < lines.length && blank(lines[after])) after += 1;
      if (after >= lines.length || indentOf(lines[after]) < marker + 2) break;
      gap ||= fenced === '' && !ITEM.test(lines[after]);
      for (; next < after; next += 1) inner.push('');
      continue;
    }
    const inside = indentOf(line) >= marker + 2;
    const lazy = next > at && !blank(lines[next - 1]) && fenced === '' && !ITEM.test(line) && !startsBlock(line);
    if (!inside && !lazy) break;
    inner.push(outdent(line, content));
    fenced = fenceOf(inner[inner.length - 1], fenced);
    next += 1;
  }
  return { lines: inner, next, gap };
}

/** The mark of the fence that is open after a line, or ''. */
function fenceOf(line, before) {
  const mark = FENCE.exec(line)?.[2];
  if (!mark) return before;
  if (before === '') return mark;
  return mark[0] === before[0] && mark.length >= before.length ? '' : before;
}

function itemChildren(lines, depth, loose, open) {
  const task = /^\[([ xX])\] /.exec(lines[0]);
  const rest = task ? [lines[0].slice(4), ...lines.slice(1)] : lines;
  const nodes = readBlocks(rest, depth + 1, open).map((block) => block.node);
  const children = loose ? nodes : nodes.flatMap((node) => (node.tag === 'p' ? node.children : [node]));
  return task ? [task[1] === ' ' ? '\u2610 ' : '\u2611 ', ...children] : children;
}

/** Whether a line is the second one of a table, such as `|:---|---:|`. */
function isDelimiters(line) {
  return line !== undefined && line.includes('-') && line.includes('|') && cells(line).every((cell) => /^:?-+:?$/.test(cell));
}

function table(lines, at, open) {
  const growing = open && lines[at].trimStart().startsWith('|') && at + 1 >= lines.length;
  if (!growing && !(lines[at].includes('|') && isDelimiters(lines[at + 1]))) return null;
  const head = cells(lines[at]);
  const align = growing ? [] : cells(lines[at + 1]).map((cell) => (/:$/.test(cell) ? (/^:/.test(cell) ? 'center' : 'right') : ''));
  if (!growing && align.length !== head.length) return null;
  let next = at + (growing ? 1 : 2);
  const rows = [];
  for (; next < lines.length && !blank(lines[next]) && lines[next].includes('|'); next += 1) rows.push(cells(lines[next]));
  const row = (tag, values, last) =>
    element('tr', head.map((_, column) => {
      const attrs = align[column] ? { class: `align-${align[column]}` } : {};
      if (tag === 'th') attrs.scope = 'col';
      return element(tag, parseInline(values[column] ?? '', last), attrs);
    }));
  const unfinished = (index) => open && next >= lines.length && index === rows.length - 1;
  const node = element('div', [
    element('table', [
      element('thead', [row('th', head, growing)]),
      ...(rows.length > 0 ? [element('tbody', rows.map((values, index) => row('td', values, unfinished(index))))] : []),
    ]),
  ], { class: 'table', tabindex: '0', role: 'group', 'aria-label': 'Table' });
  return { node, next };
}

/** Cells of a row. `\|` and a bar within backticks do not separate. */
function cells(line) {
  const text = line.trim().replace(/^\|/, '').replace(/(?<!\\)\|$/, '');
  const out = [];
  let cell = '';
  let ticked = false;
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === '\\' && text[at + 1] === '|') {
      cell += '|';
      at += 1;
    } else if (text[at] === '|' && !ticked && out.length < MAX_COLUMNS) {
      out.push(cell.trim());
      cell = '';
    } else {
      if (text[at] === '`') ticked = !ticked && text.indexOf('`', at + 1) >= 0;
      cell += text[at];
    }
  }
  out.push(cell.trim());
  return out;
}

/** Whether a line begins another block even without a blank line before it. */
function startsBlock(line) {
  const item = ITEM.exec(line);
  const interrupts = item !== null && item[3] !== '' && (!/\d/.test(item[2]) || parseInt(item[2], 10) === 1);
  return FENCE.test(line) || HEADING.test(line) || isRule(line) || QUOTE.test(line) || interrupts;
}

function paragraph(lines, at, open) {
  let next = at + 1;
  while (next < lines.length && !blank(lines[next]) && !startsBlock(lines[next])) {
    if (lines[next].includes('|') && isDelimiters(lines[next + 1])) break;
    next += 1;
  }
  const text = lines.slice(at, next).map((line) => line.trim()).join('\n');
  return { node: element('p', parseInline(text, open && next >= lines.length)), next };
}
