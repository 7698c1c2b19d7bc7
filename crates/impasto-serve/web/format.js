/** Numbers as people read them. */

/** Bytes in decimal units: 38.0 MB. */
export function size(bytes) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  let value = bytes;
  while (value >= 999.95 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)}\u00a0${units[unit]}`;
}

/** Two or three digits that matter: 2.26, 150, 0.012. */
export function significant(value) {
  if (value >= 100) return Math.round(value).toString();
  return Number(value.toPrecision(value >= 1 ? 3 : 2)).toString();
}

/** Bits per weight, to a hundredth at most. */
export function bits(value) {
  return Number(value.toFixed(2)).toString();
}

export function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;
}

/** How an answer was made, as short facts in order. */
export function factsOf(message) {
  const info = message.info ?? {};
  const facts = [];
  if (info.layer) facts.push(`layer ${info.layer}`);
  if (info.bits_per_weight) facts.push(`${bits(info.bits_per_weight)} bits per weight`);
  const speed = info.tokens_per_second ?? info.speed;
  if (speed) facts.push(`${significant(speed)} tokens/s`);
  if (info.time_to_first_token !== undefined) facts.push(`first token after ${seconds(info.time_to_first_token)}`);
  if (info.queue_seconds >= 0.1) facts.push(`${seconds(info.queue_seconds)} of it in the queue`);
  if (info.usage) facts.push(`${info.usage.completion_tokens} tokens`);
  if (info.cached_tokens) {
    const of = info.usage ? ` of ${info.usage.prompt_tokens}` : '';
    facts.push(`${info.cached_tokens}${of} prompt tokens cached`);
  }
  if (info.finish === 'length') facts.push('cut at the token limit');
  if (message.state === 'stopped') facts.push('stopped');
  return facts;
}
