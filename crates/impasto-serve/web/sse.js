/** Server-sent events from pieces of text, as the HTML standard has them. Only `data` is kept. */

/** Most characters of one event. A server that sends more is not one of ours. */
const MAX_EVENT = 16 * 1024 * 1024;

export class EventReader {
  #buffer = '';
  #searched = 0;
  #data = [];
  #size = 0;

  /**
   * @param {string} text the next piece
   * @returns {string[]} the data of the events that it completes
   */
  push(text) {
    const events = [];
    this.#buffer += text;
    let start = 0;
    for (;;) {
      const end = this.#buffer.indexOf('\n', Math.max(start, this.#searched));
      if (end < 0) break;
      const line = this.#buffer.slice(start, this.#buffer[end - 1] === '\r' && end > start ? end - 1 : end);
      start = end + 1;
      if (line === '') {
        if (this.#data.length > 0) events.push(this.#data.join('\n'));
        this.#data = [];
        this.#size = 0;
      } else if (line.startsWith('data:')) {
        this.#data.push(line.slice(line[5] === ' ' ? 6 : 5));
        this.#size += line.length;
      }
    }
    this.#buffer = this.#buffer.slice(start);
    this.#searched = this.#buffer.length;
    if (this.#buffer.length + this.#size > MAX_EVENT) throw new RangeError('An event of the stream is too long.');
    return events;
  }
}
