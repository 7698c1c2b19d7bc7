/**
 * Inline markdown: emphasis, code, links, line breaks. Pure: text in, nodes out; no HTML is ever made or understood.
 *
 * A node is a string or `{tag, attrs, children}`. Every step is linear in the text: searches stop where the next one may begin, and
 * nesting is limited.
 */

/** Open emphasis kept at once. More is shown as it is written. */
const MAX_NESTING = 12;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const PLAIN = /[^\\`*_~[\]!<&:\n]+/y;
const URL_TEXT = /[^\s<>"`]*/y;
const ENTITIES = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0', '#39': "'" };

/**
 * @param {string} text
 * @param {boolean} open whether more text may follow; then unfinished marks are shown as if they were finished
 * @returns {Array} nodes
 */
export function parseInline(text, open = false) {
  return emphasis(scan(text, open), open);
}

/** The address if a link may lead there (http, https and mailto), or null. */
export function safeAddress(address) {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return null;
  try {
    const url = new URL(address);
    return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(address, children) {
  const href = safeAddress(address);
  if (href === null) return { tag: 'span', attrs: {}, children };
  return { tag: 'a', attrs: { href, target: '_blank', rel: 'noopener noreferrer nofollow' }, children };
}

/** First pass: everything but emphasis. Runs of `*`, `_` and `~` become `{run}` tokens for the second. */
function scan(text, open) {
  const out = [];
  const brackets = [];
  const ticks = backticks(text);
  let plain = 0;
  let at = 0;
  const flush = (end) => {
    if (end > plain) out.push(text.slice(plain, end));
  };
  const take = (token, next) => {
    flush(at);
    if (token !== null) out.push(token);
    at = plain = next;
  };

  while (at < text.length) {
    PLAIN.lastIndex = at;
    if (PLAIN.test(text)) {
      at = PLAIN.lastIndex;
      continue;
    }
    const char = text[at];
    if (char === '\\' && text[at + 1] === '\n') {
      take({ tag: 'br', attrs: {}, children: [] }, at + 2);
    } else if (char === '\\' && at + 1 < text.length && ESCAPABLE.test(text[at + 1])) {
      take(text[at + 1], at + 2);
    } else if (char === '\n') {
      take({ tag: 'br', attrs: {}, children: [] }, at + 1);
    } else if (char === '`') {
      const length = runLength(text, at);
      const close = ticks(length, at + length);
      if (close >= 0) {
        take(code(text.slice(at + length, close)), close + length);
      } else if (open && at + length < text.length) {
        take(code(text.slice(at + length)), text.length);
      } else {
        at += length;
      }
    } else if (char === '*' || char === '_' || char === '~') {
      const length = runLength(text, at);
      take(delimiterRun(text, at, length), at + length);
    } else if (char === '[' || (char === '!' && text[at + 1] === '[')) {
      // A picture is shown as a link to it: the page loads nothing from elsewhere.
      const width = char === '[' ? 1 : 2;
      take({ bracket: text.slice(at, at + width) }, at + width);
      brackets.push(out.length - 1);
    } else if (char === ']' && brackets.length > 0 && text[at + 1] === '(') {
      const opener = brackets.pop();
      const target = destination(text, at + 2, open);
      if (target === null) {
        at += 1;
      } else {
        flush(at);
        const inner = emphasis(out.splice(opener + 1), open && target.cut);
        out[opener] = target.cut ? { tag: 'span', attrs: {}, children: inner } : link(target.address, inner);
        brackets.length = 0; // A link holds no links.
        at = plain = target.next;
      }
    } else if (char === ']') {
      brackets.pop();
      at += 1;
    } else if (char === '<') {
      const found = /<((?:https?:\/\/|mailto:)[^\s<>]*)>/iy;
      found.lastIndex = at;
      const match = found.exec(text);
      if (match) take(link(match[1], [match[1]]), found.lastIndex);
      else at += 1;
    } else if (char === '&') {
      const found = /&([a-z]{2,4}|#39);/y;
      found.lastIndex = at;
      const match = found.exec(text);
      if (match && match[1] in ENTITIES) take(ENTITIES[match[1]], found.lastIndex);
      else at += 1;
    } else if (char === ':' && text.startsWith('://', at)) {
      const scheme = /(?:^|[^A-Za-z0-9])(https?)$/i.exec(text.slice(Math.max(plain, at - 6), at));
      URL_TEXT.lastIndex = at + 3;
      const rest = scheme ? trimAddress(URL_TEXT.exec(text)[0]) : '';
      if (rest === '') {
        at += 1;
      } else {
        const start = at - scheme[1].length;
        const end = at + 3 + rest.length;
        const address = text.slice(start, end);
        flush(start);
        out.push(link(address, [address]));
        at = plain = end;
      }
    } else {
      at += 1;
    }
  }
  flush(text.length);
  return out;
}

/** Finds the next run of exactly `length` backticks at or after a place. Places asked for must not decrease. */
function backticks(text) {
  let places = null;
  return (length, from) => {
    if (places === null) {
      places = new Map();
      for (const match of text.matchAll(/`+/g)) {
        if (!places.has(match[0].length)) places.set(match[0].length, { list: [], next: 0 });
        places.get(match[0].length).list.push(match.index);
      }
    }
    const known = places.get(length);
    if (!known) return -1;
    while (known.next < known.list.length && known.list[known.next] < from) known.next += 1;
    return known.next < known.list.length ? known.list[known.next] : -1;
  };
}

function code(text) {
  const joined = text.replaceAll('\n', ' ');
  const padded = joined.length > 2 && joined.startsWith(' ') && joined.endsWith(' ') && joined.trim() !== '';
  return { tag: 'code', attrs: {}, children: [padded ? joined.slice(1, -1) : joined] };
}

function runLength(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

/**
 * What follows `](`: the address, an optional title, `)`. It holds no `]`, so that no two searches cross the same text.
 * @returns {{address: string, next: number, cut: boolean} | null}
 */
function destination(text, from, open) {
  let depth = 0;
  let at = from;
  for (; at < text.length; at += 1) {
    const char = text[at];
    if (char === '(') depth += 1;
    else if (char === ')' && depth > 0) depth -= 1;
    else if (char === ')' || char === ']' || /\s/.test(char)) break;
  }
  const address = text.slice(from, at).replace(/^<(.*)>$/, '$1');
  const rest = /[ \n]*(?:"[^"\]]*"|'[^'\]]*')?[ \n]*\)/y;
  rest.lastIndex = at;
  if (rest.test(text)) return { address, next: rest.lastIndex, cut: false };
  if (open && at >= text.length) return { address, next: text.length, cut: true };
  return null;
}

/** A bare address without the punctuation that ends a sentence, nor a parenthesis that began before it. */
function trimAddress(address) {
  let end = address.length;
  let extra = 0;
  for (const char of address) extra += char === ')' ? 1 : char === '(' ? -1 : 0;
  while (end > 0) {
    const last = address[end - 1];
    if (last === ')' && extra > 0) extra -= 1;
    else if (!/[.,;:!?'"*_~\]]/.test(last)) break;
    end -= 1;
  }
  return address.slice(0, end);
}

/** A run of delimiters with what it may do, by the flanking rules of CommonMark; plain text where it can do nothing. */
function delimiterRun(text, at, count) {
  const char = text[at];
  const run = text.slice(at, at + count);
  if (count > 3 || (char === '~' && count !== 2)) return run;
  const before = text[at - 1] ?? ' ';
  const after = text[at + count] ?? ' ';
  const space = (c) => /\s/.test(c);
  const mark = (c) => /[\p{P}\p{S}]/u.test(c);
  const left = !space(after) && (!mark(after) || space(before) || mark(before));
  const right = !space(before) && (!mark(before) || space(after) || mark(after));
  const word = char === '_';
  const canOpen = left && (!word || !right || mark(before));
  const canClose = right && (!word || !left || mark(after));
  return canOpen || canClose ? { run: char, count, canOpen, canClose } : run;
}

/** Second pass: pairs runs of delimiters. A frame is an open run with the nodes since. */
function emphasis(tokens, open) {
  const frames = [{ nodes: [] }];
  const top = () => frames[frames.length - 1];

  /** Turns all frames above `keep` back into text. */
  const fold = (keep) => {
    for (const frame of frames.splice(keep + 1)) {
      append(frames[keep].nodes, frame.run.repeat(frame.count));
      for (const node of frame.nodes) append(frames[keep].nodes, node);
    }
  };

  for (const token of tokens) {
    if (typeof token === 'string' || token.tag) {
      append(top().nodes, token);
      continue;
    }
    if (token.bracket) {
      append(top().nodes, token.bracket);
      continue;
    }
    let count = token.count;
    while (token.canClose && count > 0) {
      const found = frames.findLastIndex((frame) => frame.run === token.run && pairs(frame, token));
      if (found < 0) break;
      fold(found);
      const opener = frames[found];
      const used = Math.min(2, count, opener.count);
      const node = { tag: tagOf(token.run, used), attrs: {}, children: opener.nodes };
      opener.count -= used;
      count -= used;
      if (opener.count > 0) {
        opener.nodes = [node];
      } else {
        frames.pop();
        append(top().nodes, node);
      }
    }
    if (count === 0) continue;
    if (token.canOpen && frames.length <= MAX_NESTING) frames.push({ ...token, length: token.count, count, nodes: [] });
    else append(top().nodes, token.run.repeat(count));
  }

  while (open && frames.length > 1) {
    const frame = frames.pop();
    if (frame.nodes.length > 0) {
      append(top().nodes, { tag: tagOf(frame.run, Math.min(2, frame.count)), attrs: {}, children: frame.nodes });
    }
  }
  fold(0);
  return frames[0].nodes;
}

/** CommonMark's rule of three: a run that could both open and close pairs only where the lengths allow it. */
function pairs(frame, token) {
  if (!(frame.canClose || token.canOpen)) return true;
  return (frame.length + token.count) % 3 !== 0 || (frame.length % 3 === 0 && token.count % 3 === 0);
}

function tagOf(run, used) {
  return run === '~' ? 'del' : used === 2 ? 'strong' : 'em';
}

/** Adds a node; neighbouring strings become one. */
function append(nodes, node) {
  if (typeof node === 'string' && typeof nodes[nodes.length - 1] === 'string') nodes[nodes.length - 1] += node;
  else nodes.push(node);
}
