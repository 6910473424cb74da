// Runs widgets in a page without a kernel: a model with the methods that an anywidget module calls, and one render per
// mount. Plain script, no imports; the data are in <script id="vpd-widgets">.
(() => {
  "use strict";
  const source = document.querySelector("script#vpd-widgets"); // never an element made from text in the page
  if (!source) return;
  const { modules, styles, data: buffers, models } = JSON.parse(source.textContent);

  function toDataView(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return new DataView(bytes.buffer);
  }

  function makeModel(entry) {
    const state = structuredClone(entry.state);
    for (const { path, data } of entry.buffers) {
      // Own properties only: a path cannot reach a prototype.
      const parent = path.slice(0, -1).reduce((node, key) => (Object.hasOwn(node, key) ? node[key] : {}), state);
      if (path.at(-1) !== "__proto__") parent[path.at(-1)] = toDataView(buffers[data]);
    }
    const listeners = new Map();
    const fire = (name, ...values) => {
      for (const listener of [...(listeners.get(name) ?? [])]) listener(...values);
    };
    const model = {
      get: (key) => state[key],
      set(key, value) {
        if (state[key] === value) return;
        state[key] = value;
        fire(`change:${key}`, model, value);
        fire("change", model);
      },
      on(name, listener) {
        listeners.set(name, [...(listeners.get(name) ?? []), listener]);
      },
      off(name, listener) {
        if (!name) listeners.clear();
        else if (!listener) listeners.delete(name);
        else listeners.set(name, (listeners.get(name) ?? []).filter((other) => other !== listener));
      },
      offline: true, // no kernel: buttons that need one are hidden
      save_changes() {},
      send() {},
    };
    return model;
  }

  const imported = new Map(); // module number -> promise of its exports
  function importModule(number) {
    if (!imported.has(number)) {
      const url = URL.createObjectURL(new Blob([modules[number]], { type: "text/javascript" }));
      imported.set(
        number,
        import(url)
          .then(async (module) => (typeof module.default === "function" ? await module.default() : module.default))
          .finally(() => URL.revokeObjectURL(url)),
      );
    }
    return imported.get(number);
  }

  const live = new Map(); // model id -> promise of its model: views of one widget share it
  function liveModel(id, entry, widget) {
    if (!live.has(id)) {
      const model = makeModel(entry);
      live.set(id, Promise.resolve(widget.initialize?.({ model })).then(() => model));
    }
    return live.get(id);
  }

  // In a notebook the kernel synchronises linked widgets; here the page does, among the models that it shows.
  async function tie(id) {
    const source = await live.get(id);
    for (const link of models[id].state.links ?? []) {
      const target = await live.get(link.model);
      if (!target) continue;
      const follow = (from, name, to, other) => from.on(`change:${name}`, () => to.set(other, from.get(name)));
      follow(source, link.source, target, link.target);
      follow(target, link.target, source, link.source);
    }
  }

  // Every selection has an address: page.html#step=12&rollout=3&token=7. Tables are the models with rows of rollouts; the
  // lens of a table is the one that it drives. Responses that were followed have #followed=1&step=12&token=7.
  const tables = Object.keys(models).filter((id) => models[id].state.rows?.some?.((row) => Number.isInteger(row?.rollout)));

  const histories = Object.keys(models).filter((id) => models[id].state.packed?.some?.((one) => Number.isInteger(one?.response)));

  async function lensOf(id) {
    const link = (models[id].state.links ?? []).find(({ target }) => target === "index");
    return link && live.get(link.model);
  }

  function addressed() {
    const given = new URLSearchParams(location.hash.slice(1));
    const number = (name) => (/^\d{1,9}$/.test(given.get(name) ?? "") ? Number(given.get(name)) : null);
    return { step: number("step"), rollout: number("rollout"), token: number("token"), followed: number("followed") };
  }

  function scrollTo(id) {
    const mounts = [...document.querySelectorAll(".vpd-mount")];
    mounts.find(({ dataset }) => dataset.vpdModel === id)?.scrollIntoView({ block: "start" });
  }

  /** A token as far as the record that a lens shows has it; else null. */
  function within(lens, token) {
    const ends = lens.get("packed")?.[lens.get("index")]?.tokens?.ends; // four bytes a token
    return token < (ends?.byteLength ?? 0) / 4 ? token : null;
  }

  // While an address is opened none is written: half-way it would name the token of the response before.
  let opening = false;

  function write(hash, lens) {
    if (opening) return;
    const token = lens ? within(lens, lens.get("selected")) : null;
    history.replaceState(null, "", `#${hash}${token === null ? "" : `&token=${token}`}`);
  }

  function writeFollowed(model) {
    const { step, response } = model.get("packed")[model.get("index")] ?? {};
    if (step !== undefined) write(`followed=${response}&step=${step}`, model);
  }

  function writeRollout(table, lens) {
    const row = table.get("rows")[table.get("selected")];
    if (row) write(`step=${row.step}&rollout=${row.rollout}`, lens);
  }

  /** Show what an address names, then write the address of what is shown. */
  function show(id, change, writeAddress) {
    opening = true;
    try {
      change();
    } finally {
      opening = false;
    }
    writeAddress();
    scrollTo(id);
  }

  async function openFollowed({ step, token, followed }) {
    for (const id of histories) {
      const model = await live.get(id);
      const at = model?.get("packed").findIndex((one) => one.step === step && one.response === followed) ?? -1;
      if (at < 0) continue;
      const change = () => {
        model.set("index", at);
        model.set("selected", within(model, token));
      };
      return show(id, change, () => writeFollowed(model));
    }
  }

  async function open() {
    const { step, rollout, token, followed } = addressed();
    if (step === null) return;
    if (followed !== null) return openFollowed({ step, token, followed });
    for (const id of tables) {
      const [table, lens] = [await live.get(id), await lensOf(id)];
      const at = table?.get("rows").findIndex((row) => row.step === step && row.rollout === (rollout ?? 0)) ?? -1;
      if (at < 0) continue;
      const change = () => {
        table.set("selected", at);
        lens?.set("selected", within(lens, token));
      };
      return show(id, change, () => writeRollout(table, lens));
    }
  }

  async function tell() {
    for (const id of histories) {
      const model = await live.get(id);
      const told = () => writeFollowed(model);
      model?.on("change:index", told);
      model?.on("change:selected", told);
    }
    for (const id of tables) {
      const [table, lens] = [await live.get(id), await lensOf(id)];
      const told = () => writeRollout(table, lens);
      table?.on("change:selected", told);
      lens?.on("change:selected", told);
    }
  }

  async function bringToLife(place) {
    const id = place.dataset.vpdModel;
    const entry = models[id];
    if (!entry) throw new Error(`this page has no data for widget ${id}`);
    const widget = await importModule(entry.esm);
    const model = await liveModel(id, entry, widget);
    const el = document.createElement("div");
    el.className = "vpd-view";
    const fallback = [...place.childNodes];
    place.append(el);
    try {
      await widget.render({ model, el });
    } catch (error) {
      el.remove();
      throw error;
    }
    for (const node of fallback) node.remove();
  }

  for (const text of styles) {
    const style = document.createElement("style");
    style.textContent = text;
    document.head.append(style);
  }
  const places = [...document.querySelectorAll(".vpd-mount[data-vpd-model]")].map((place) =>
    bringToLife(place).catch((error) => {
      console.error(error);
      const note = document.createElement("p");
      note.setAttribute("role", "alert");
      note.textContent = `This widget could not be shown: ${error.message}`;
      place.append(note); // the fallback stays
    }),
  );
  Promise.all(places)
    .then(() => Promise.allSettled([...live.keys()].map(tie)))
    .then(open)
    .then(tell);
  addEventListener("hashchange", open);
})();
