// A small Llama in plain JavaScript: tokenizer, forward pass, sampling. LiveModel runs this text in a worker, and on the
// page's own thread where a worker is refused. It uses nothing of the page, and each name is unique across all scripts.

// ---- tokenizer: tokenizer.json of the `tokenizers` library, for byte-level Unigram and BPE models ----

// What \s means to the library that wrote the pattern; JavaScript's own differs in two characters.
const SPACES = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** A pattern of the `tokenizers` library as a regular expression. */
export function patternOf(source) {
  let inside = false;
  const text = source.replace(/\\.|\[|\]/g, (part) => {
    if (part === "[" || part === "]") inside = part === "[";
    if (part === "\\s") return inside ? SPACES : `[${SPACES}]`;
    if (part === "\\S") return `[^${SPACES}]`;
    return part;
  });
  return new RegExp(text, "gu");
}

/** All matches of a pattern and all text between them, in order. */
export function isolated(text, pattern) {
  const parts = [];
  let at = 0;
  for (const { 0: found, index } of text.matchAll(pattern)) {
    if (index > at) parts.push(text.slice(at, index));
    if (found) parts.push(found);
    at = index + found.length;
  }
  if (at < text.length) parts.push(text.slice(at));
  return parts;
}

/** The printable character that stands for each byte in a byte-level vocabulary. */
export function byteLetters() {
  const plain = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(plain(byte) ? byte : next++));
}

/** The most probable split of a word into tokens of a Unigram vocabulary; `scores` is text -> [id, log-probability]. */
export function unigramSplit(word, scores, longest) {
  const best = Array.from({ length: word.length + 1 }, () => null);
  best[0] = { score: 0, from: -1, id: -1 };
  for (let start = 0; start < word.length; start++) {
    if (!best[start]) continue;
    for (let end = start + 1; end <= Math.min(word.length, start + longest); end++) {
      const [id, score] = scores.get(word.slice(start, end)) ?? [];
      if (id === undefined) continue;
      const total = score + best[start].score;
      if (!best[end] || total > best[end].score) best[end] = { score: total, from: start, id };
    }
  }
  const ids = [];
  for (let at = word.length; at > 0; at = best[at].from) {
    if (!best[at]) throw new Error(`the vocabulary has no token for ${JSON.stringify(word)}`);
    ids.push(best[at].id);
  }
  return ids.reverse();
}

/** Byte-pair encoding of a word: the pair that was merged first in training is merged first; `ranks` is "a b" -> rank. */
export function pairSplit(word, ids, ranks) {
  const parts = [...word];
  for (;;) {
    let [lowest, at] = [Infinity, -1];
    for (let i = 0; i + 1 < parts.length; i++) {
      const rank = ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
      if (rank < lowest) [lowest, at] = [rank, i];
    }
    if (at < 0) break;
    parts.splice(at, 2, parts[at] + parts[at + 1]);
  }
  return parts.map((part) => ids.get(part));
}

/** Encode and decode as the `tokenizers` library does; `spec` is the parsed tokenizer.json. */
export class Tokenizer {
  constructor(spec) {
    const { model } = spec;
    const entries = model.type === "Unigram" ? model.vocab.map(([text], id) => [text, id]) : Object.entries(model.vocab);
    this.ids = new Map(entries);
    this.texts = [];
    for (const [text, id] of entries) this.texts[id] = text;
    this.added = new Map(spec.added_tokens.map(({ content, id }) => [content, id]));
    this.control = new Set(spec.added_tokens.filter(({ special }) => special).map(({ content }) => content));
    const names = [...this.added.keys()].sort((a, b) => b.length - a.length);
    this.addedPattern = new RegExp(names.map((name) => name.replace(/[^\w]/g, "\\$&")).join("|"), "g");
    this.letters = byteLetters();
    this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    const steps = spec.pre_tokenizer.pretokenizers ?? [spec.pre_tokenizer];
    this.patterns = steps.flatMap((step) => {
      if (step.type === "Split") return [patternOf(step.pattern.Regex)];
      if (step.type === "Digits") return [/\p{N}/gu];
      return step.use_regex ? [patternOf(GPT2)] : [];
    });
    this.known = new Map(); // word -> ids: a text has few different words
    if (model.type === "Unigram") {
      const scores = new Map(model.vocab.map(([text, score], id) => [text, [id, score]]));
      const longest = Math.max(...model.vocab.map(([text]) => text.length));
      this.split = (word) => unigramSplit(word, scores, longest);
    } else {
      const ranks = new Map(model.merges.map((pair, rank) => [Array.isArray(pair) ? pair.join(" ") : pair, rank]));
      this.split = (word) => pairSplit(word, this.ids, ranks);
    }
  }

  /** Token ids of a text; control tokens in it become their ids. */
  encode(text) {
    const ids = [];
    let at = 0;
    const ordinary = (part) => {
      let words = part ? [part] : [];
      for (const pattern of this.patterns) words = words.flatMap((word) => isolated(word, pattern));
      for (const word of words) ids.push(...this.word(word));
    };
    for (const { 0: name, index } of text.matchAll(this.addedPattern)) {
      ordinary(text.slice(at, index));
      ids.push(this.added.get(name));
      at = index + name.length;
    }
    ordinary(text.slice(at));
    return ids;
  }

  word(word) {
    if (!this.known.has(word)) {
      let letters = "";
      for (const byte of new TextEncoder().encode(word)) letters += this.letters[byte];
      this.known.set(word, this.split(letters));
    }
    return this.known.get(word);
  }

  /** The text of some tokens; control tokens by their names, or left out. */
  decode(ids, control = true) {
    let text = "";
    let bytes = [];
    const flush = () => {
      text += new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
      bytes = [];
    };
    for (const id of ids) {
      const token = this.texts[id] ?? "";
      if (this.added.has(token)) {
        flush();
        if (control || !this.control.has(token)) text += token;
      } else for (const letter of token) bytes.push(this.bytes.get(letter));
    }
    flush();
    return text;
  }

  /** The text as data: control tokens are removed, also those that a removal forms. */
  plain(text) {
    const lengths = [...new Set([...this.control].map((name) => name.length))].sort((a, b) => a - b);
    let kept = "";
    for (const character of text) {
      kept += character;
      const found = lengths.find((length) => this.control.has(kept.slice(-length)));
      if (found) kept = kept.slice(0, -found);
    }
    return kept;
  }

  /** Words (runs of letters) that are not one token, neither alone nor after a space; each once. */
  unknownWords(text) {
    const words = new Set(text.match(/[\p{L}\p{Nl}\p{No}]+/gu) ?? []);
    return [...words].filter((word) => this.encode(word).length !== 1 && this.encode(` ${word}`).length !== 1);
  }
}

// ---- weights ----

/** 32-bit floats from their bytes: all highest bytes first, then all second ones and so on, which deflates better. */
export function joinPlanes(bytes) {
  const count = bytes.length / 4;
  const whole = new Uint8Array(bytes.length);
  for (let plane = 0; plane < 4; plane++) {
    for (let i = 0, from = plane * count; i < count; i++) whole[4 * i + 3 - plane] = bytes[from + i];
  }
  return new Float32Array(whole.buffer);
}

/** Tensors by name from one array; `shapes` are [name, shape] in their order. */
export function namedTensors(values, shapes) {
  let at = 0;
  const tensors = new Map();
  for (const [name, shape] of shapes) {
    const size = shape.reduce((a, b) => a * b, 1);
    tensors.set(name, values.subarray(at, (at += size)));
  }
  if (at !== values.length) throw new Error(`weights: ${values.length} numbers where the shapes need ${at}`);
  return tensors;
}

/** Inflate weights as vpdlab_widgets/live_model.py packs them. */
export async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return joinPlanes(new Uint8Array(await new Response(stream).arrayBuffer()));
}

// ---- the model ----

/** out[i] = row i of `weights` times `input`; sums in double precision. */
function multiply(weights, input, out) {
  const width = input.length;
  for (let i = 0, at = 0; i < out.length; i++, at += width) {
    let [a, b, c, d] = [0, 0, 0, 0];
    let j = 0;
    for (; j + 3 < width; j += 4) {
      a += weights[at + j] * input[j];
      b += weights[at + j + 1] * input[j + 1];
      c += weights[at + j + 2] * input[j + 2];
      d += weights[at + j + 3] * input[j + 3];
    }
    for (; j < width; j++) a += weights[at + j] * input[j];
    out[i] = a + b + (c + d);
  }
  return out;
}

function normalised(input, scale, eps, out) {
  let sum = 0;
  for (let i = 0; i < input.length; i++) sum += input[i] * input[i];
  const factor = 1 / Math.sqrt(sum / input.length + eps);
  for (let i = 0; i < input.length; i++) out[i] = scale[i] * input[i] * factor;
  return out;
}

/** A Llama: rotary positions, RMS norms, gated SiLU, grouped keys; `shape` names its sizes. */
export class Llama {
  constructor(shape, tensors) {
    this.shape = shape;
    const tensor = (name) => {
      if (!tensors.has(name)) throw new Error(`weights: ${name} is missing`);
      return tensors.get(name);
    };
    this.embedding = tensor("model.embed_tokens.weight");
    this.head = shape.tied ? this.embedding : tensor("lm_head.weight");
    this.norm = tensor("model.norm.weight");
    this.layers = Array.from({ length: shape.layers }, (_, i) => {
      const of = (name) => tensor(`model.layers.${i}.${name}.weight`);
      return {
        before: of("input_layernorm"), q: of("self_attn.q_proj"), k: of("self_attn.k_proj"), v: of("self_attn.v_proj"),
        o: of("self_attn.o_proj"), after: of("post_attention_layernorm"), gate: of("mlp.gate_proj"), up: of("mlp.up_proj"),
        down: of("mlp.down_proj"),
      };
    });
    const half = shape.head_dim / 2;
    // Rounded as torch rounds them: at position 200 a last bit of these shows in the log-probabilities.
    this.frequencies = Float32Array.from({ length: half }, (_, i) => 1 / Math.fround(shape.theta ** Math.fround(i / half)));
    const { hidden, inner, heads, kv_heads, head_dim } = shape;
    const room = (size) => new Float32Array(size);
    this.rooms = {
      x: room(hidden), n: room(hidden), q: room(heads * head_dim), k: room(kv_heads * head_dim), v: room(kv_heads * head_dim),
      mixed: room(heads * head_dim), out: room(hidden), gate: room(inner), up: room(inner), logits: room(shape.vocab),
    };
  }

  /** An empty context: the keys and values of the tokens that were read. */
  context() {
    const width = this.shape.kv_heads * this.shape.head_dim;
    return { ids: [], width, keys: this.layers.map(() => new Float32Array(64 * width)), values: this.layers.map(() => new Float32Array(64 * width)) };
  }

  /** Logits after `ids`. What the context has read of them already is not read again; valid until the next call. */
  read(context, ids) {
    if (!ids.length) throw new Error("a context needs at least one token");
    if (ids.length > this.shape.positions) throw new Error(`${ids.length} tokens, but the model takes ${this.shape.positions}`);
    let common = 0;
    while (common < context.ids.length && common < ids.length && context.ids[common] === ids[common]) common++;
    context.ids.length = Math.min(common, ids.length - 1); // the last one is read again: its output is wanted
    for (let at = context.ids.length; at < ids.length; at++) this.take(context, ids[at]);
    return multiply(this.head, normalised(this.rooms.x, this.norm, this.shape.eps, this.rooms.n), this.rooms.logits);
  }

  take(context, id) {
    const { hidden, heads, kv_heads, head_dim, eps } = this.shape;
    const { x, n, q, k, v, mixed, out, gate, up } = this.rooms;
    const at = context.ids.length;
    if ((at + 1) * context.width > context.keys[0].length) {
      for (const side of [context.keys, context.values]) {
        side.forEach((old, layer) => (side[layer] = new Float32Array(2 * old.length)).set(old));
      }
    }
    x.set(this.embedding.subarray(id * hidden, (id + 1) * hidden));
    this.layers.forEach((layer, number) => {
      normalised(x, layer.before, eps, n);
      this.turn(multiply(layer.q, n, q), heads, at);
      this.turn(multiply(layer.k, n, k), kv_heads, at);
      const [keys, values] = [context.keys[number], context.values[number]];
      keys.set(k, at * context.width);
      values.set(multiply(layer.v, n, v), at * context.width);
      for (let head = 0; head < heads; head++) {
        const from = Math.floor((head * kv_heads) / heads) * head_dim;
        attend(q.subarray(head * head_dim, (head + 1) * head_dim), keys, values, from, context.width, at + 1, mixed.subarray(head * head_dim, (head + 1) * head_dim));
      }
      multiply(layer.o, mixed, out);
      for (let i = 0; i < hidden; i++) x[i] += out[i];
      normalised(x, layer.after, eps, n);
      multiply(layer.gate, n, gate);
      multiply(layer.up, n, up);
      for (let i = 0; i < gate.length; i++) gate[i] = (gate[i] / (1 + Math.exp(-gate[i]))) * up[i];
      multiply(layer.down, gate, out);
      for (let i = 0; i < hidden; i++) x[i] += out[i];
    });
    context.ids.push(id);
  }

  /** Rotary positions, in place. */
  turn(vector, heads, at) {
    const half = this.frequencies.length;
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(at * this.frequencies[i]);
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      for (let head = 0; head < heads; head++) {
        const first = head * 2 * half + i;
        const [a, b] = [vector[first], vector[first + half]];
        vector[first] = a * cos - b * sin;
        vector[first + half] = b * cos + a * sin;
      }
    }
  }
}

/** One head's attention over the first `count` positions. */
function attend(query, keys, values, from, width, count, out) {
  const weights = new Float64Array(count);
  let largest = -Infinity;
  for (let at = 0; at < count; at++) {
    let sum = 0;
    for (let i = 0, place = at * width + from; i < query.length; i++) sum += query[i] * keys[place + i];
    weights[at] = sum / Math.sqrt(query.length);
    if (weights[at] > largest) largest = weights[at];
  }
  let total = 0;
  for (let at = 0; at < count; at++) total += weights[at] = Math.exp(weights[at] - largest);
  for (let i = 0; i < out.length; i++) {
    let sum = 0;
    for (let at = 0; at < count; at++) sum += weights[at] * values[at * width + from + i];
    out[i] = sum / total;
  }
}

// ---- distributions ----

/** Log-probabilities of logits at a temperature. */
export function logSoftmax(logits, temperature = 1) {
  const logp = Float64Array.from(logits, (value) => value / temperature);
  let largest = -Infinity;
  for (const value of logp) if (value > largest) largest = value;
  let total = 0;
  for (const value of logp) total += Math.exp(value - largest);
  const shift = largest + Math.log(total);
  return logp.map((value) => value - shift);
}

/** A number in [0, 1) that depends on its two arguments alone: what is forced before a token does not change its draw. */
export function uniform(seed, position) {
  let state = (Math.imul(seed | 0, 0x9e3779b1) ^ Math.imul(position + 1, 0x85ebca6b)) | 0;
  for (const factor of [0x21f0aaad, 0x735a2d97]) state = Math.imul(state ^ (state >>> 16), factor);
  return ((state ^ (state >>> 15)) >>> 0) / 4294967296;
}

/** The most probable token. */
export function greediest(logp) {
  let best = 0;
  for (let id = 1; id < logp.length; id++) if (logp[id] > logp[best]) best = id;
  return best;
}

/** The token at which the cumulative probability passes `share` of all of it. */
export function drawn(logp, share) {
  let total = 0;
  for (const value of logp) total += Math.exp(value);
  let sum = 0;
  for (let id = 0; id < logp.length; id++) {
    sum += Math.exp(logp[id]);
    if (sum > share * total) return id;
  }
  return greediest(logp); // rounding alone leads here
}

/** The `count` most probable ids, in order. */
export function topIds(logp, count) {
  const found = [];
  for (let id = 0; id < logp.length; id++) {
    if (found.length === count && logp[id] <= logp[found.at(-1)]) continue;
    let at = found.length;
    while (at > 0 && logp[found[at - 1]] < logp[id]) at--;
    found.splice(at, 0, id);
    if (found.length > count) found.pop();
  }
  return found;
}

/** What both distributions say at one place: of the token, of the likeliest ones, and how far they are apart. */
export function comparedAt(student, teacher, token, count) {
  const ids = new Set([...topIds(student, count), ...topIds(teacher, count), token]);
  const sum = (of) => student.reduce((total, _, id) => total + of(id), 0);
  const entropy = (logp) => -sum((id) => Math.exp(logp[id]) * logp[id]);
  return {
    token, student_logp: student[token], teacher_logp: teacher[token],
    kl: sum((id) => Math.exp(student[id]) * (student[id] - teacher[id])),
    student_entropy: entropy(student), teacher_entropy: entropy(teacher),
    top: [...ids].map((id) => [id, student[id], teacher[id]]).sort((a, b) => Math.max(b[1], b[2]) - Math.max(a[1], a[2])),
  };
}

// ---- the desk: messages in, messages out; in a worker or on the page's own thread ----

/** Let messages in that came meanwhile. */
function breath() {
  return new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      done();
    };
    port2.postMessage(null);
  });
}

/**
 * Answer requests. In: `load` {name, shape, shapes, bytes}; `run` {view, number, weights, prompts, kept, temperature, seed,
 * most, ends, top}, where weights, prompts and kept name something for "student" and for "teacher"; `leave` {view}.
 * Out: `token` {view, number, answer, position, ...comparedAt}, `done` {view, number, finished, seconds}, `failed`.
 *
 * Each side writes an answer of its own, and both sides score both answers. `kept` are ids that an answer begins with.
 */
export function openDesk(post) {
  const models = new Map(); // name -> promise of its Llama
  const views = new Map(); // view -> {number, contexts}: the newest request, and what was read for it

  async function answer(request) {
    const { view, number, prompts, kept, temperature, seed, most, ends, top } = request;
    const started = performance.now();
    const sides = ["student", "teacher"];
    const llama = Object.fromEntries(await Promise.all(sides.map(async (side) => [side, await models.get(request.weights[side])])));
    const current = () => views.get(view)?.number === number;
    if (!current()) return;
    const { contexts } = views.get(view);
    const heat = temperature > 0 ? temperature : 1;
    const written = { student: [], teacher: [] };
    const finished = { student: false, teacher: false };
    const scored = (side, author) => {
      const key = `${request.weights[side]} ${side} ${author}`;
      if (!contexts.has(key)) contexts.set(key, llama[side].context());
      return logSoftmax(llama[side].read(contexts.get(key), [...prompts[side], ...written[author]]), heat);
    };
    for (let position = 0; position < most; position++) {
      for (const author of sides.filter((side) => !finished[side])) {
        const [student, teacher] = sides.map((side) => scored(side, author));
        const own = author === "student" ? student : teacher;
        const chosen = temperature > 0 ? drawn(own, uniform(seed, position)) : greediest(own);
        const token = kept[author][position] ?? chosen;
        written[author].push(token);
        finished[author] = ends.includes(token);
        post({ kind: "token", view, number, answer: author, position, ...comparedAt(student, teacher, token, top) });
        await breath();
        if (!current()) return;
      }
    }
    post({ kind: "done", view, number, finished, seconds: (performance.now() - started) / 1000 });
  }

  return (message) => {
    const { kind, view } = message;
    if (kind === "load" && !models.has(message.name)) {
      const { name, shape, shapes, bytes } = message;
      models.set(name, inflated(bytes).then((values) => new Llama(shape, namedTensors(values, shapes))));
    }
    if (kind === "leave") views.delete(view);
    if (kind === "run") {
      views.set(view, { number: message.number, contexts: views.get(view)?.contexts ?? new Map() });
      answer(message).catch((error) => post({ kind: "failed", view, number: message.number, reason: error.message }));
    }
  };
}
