// Services and their instances. A tile is touched only where what it shows has changed, and its ages, probe and
// sparkline only while it can be seen.

const RING = 30;
const STATES = ["healthy", "checking", "unhealthy", "draining", "drained", "gone"];
const shownStates = new Set(STATES);
let wanted = "";

const services = new Map();

// The browser tells by itself which of the tiles it skips (content-visibility: auto); an older one has to be asked.
const observer = "ContentVisibilityAutoStateChangeEvent" in window ? null : new IntersectionObserver(
  (entries) => entries.forEach((entry) => entry.target.tile.seen(entry.isIntersecting)),
  { rootMargin: "200px" },
);

class Tile {
  constructor(service) {
    this.service = service;
    this.node = byId("tile").content.firstElementChild.cloneNode(true);
    this.node.tile = this;
    this.node.setAttribute("role", "listitem");
    this.parts = {};
    for (const name of ["endpoint", "word", "since", "reason", "marks", "probed", "latency", "orders"]) {
      this.parts[name] = this.node.querySelector(`.${name}`);
    }
    this.line = this.node.querySelector("polyline");
    this.ring = [];
    this.visible = false;
    this.sketched = 0;
    this.probes = 0;
    this.probedAt = -Infinity;
    if (observer) observer.observe(this.node);
    else this.node.addEventListener("contentvisibilityautostatechange", (event) => this.seen(!event.skipped));
  }

  seen(visible) {
    this.visible = visible;
    if (visible && this.instance) frames.add(this, frames.work.get(this) ?? (() => this.paint()));
  }

  // Takes what the sidecar says now; true where the tile has to be painted.
  take(instance, at) {
    const before = this.instance;
    this.instance = instance;
    const probe = instance.probe;
    if (probe) {
      const probedAt = at - probe.age_seconds * 1000;
      if (probedAt > this.probedAt + 5) {
        this.probedAt = probedAt;
        this.probes += 1;
        this.ring.push(probe.duration_seconds);
        if (this.ring.length > RING) this.ring.shift();
      }
    }
    return !before || ["state", "serving", "reason", "since", "version", "weight", "backup", "source", "id"].some(
      (key) => before[key] !== instance[key],
    );
  }

  fits() {
    const one = this.instance;
    if (!shownStates.has(one.state)) return false;
    return !wanted || [endpointOf(one), one.state, one.reason, one.version, one.source, one.id, this.service].some(
      (text) => String(text).toLowerCase().includes(wanted),
    );
  }

  // What stays until the sidecar says otherwise.
  show() {
    const one = this.instance;
    const endpoint = endpointOf(one);
    const expected = one.state === "healthy";
    const serves = one.serving === expected ? "" : one.serving ? ", serves" : ", out";
    put(this.parts.endpoint, endpoint);
    put(this.parts.word, one.state + serves);
    put(this.parts.reason, one.reason);
    this.parts.reason.title = plain(one.reason);
    put(this.parts.marks, marks(one));
    this.parts.marks.title = plain(one.id ? `${marks(one)}, id ${one.id}` : marks(one));
    this.node.dataset.state = one.state;
    this.node.dataset.serving = String(one.serving);
    this.node.setAttribute("aria-label", plain(`${endpoint}, ${one.state}${serves}: ${one.reason}`));
    this.node.hidden = !this.fits();
    if (one.state !== "gone") this.offer(endpoint, ["draining", "drained"].includes(one.state) ? "undrain" : "drain");
    this.paint();
  }

  offer(endpoint, verb) {
    if (this.offered === verb) return;
    this.offered = verb;
    const word = verb === "drain" ? "Drain" : "Undrain";
    const press = button(word, `${word} ${endpoint}`, () => askForDrain(verb, this.service, endpoint));
    this.parts.orders.replaceChildren(press);
  }

  // What changes by itself.
  paint() {
    const one = this.instance;
    put(this.parts.since, one.since ? `for ${duration(clock.age(one.since))}` : "");
    const probe = one.probe;
    put(this.parts.probed, probe ? `probed ${duration((clock.now() - this.probedAt) / 1000)} ago` : "not probed");
    put(this.parts.latency, probe ? milliseconds(probe.duration_seconds) : "");
    if (this.sketched !== this.probes) {
      this.sketched = this.probes;
      this.line.setAttribute("points", sketch(this.ring));
    }
  }

  remove() {
    observer?.unobserve(this.node);
    frames.drop(this);
    this.node.remove();
  }
}

function marks(one) {
  const told = [];
  if (one.version) told.push(one.version);
  if (one.weight !== undefined) told.push(`weight ${one.weight}`);
  if (one.backup) told.push("backup");
  if (one.source) told.push(one.source);
  return told.join(" · ");
}

function sketch(ring) {
  const most = Math.max(...ring, 0.001);
  const step = 60 / (RING - 1);
  const from = RING - ring.length;
  return ring.map((value, at) => `${((from + at) * step).toFixed(1)},${(15 - (14 * value) / most).toFixed(1)}`).join(" ");
}

class Service {
  constructor(name) {
    this.name = name;
    this.node = byId("service").content.firstElementChild.cloneNode(true);
    this.grid = this.node.querySelector(".tiles");
    this.grid.setAttribute("role", "list");
    this.grid.setAttribute("aria-label", plain(`Instances of ${name}; move with the arrow keys`));
    this.grid.addEventListener("keydown", (event) => move(event, this.grid));
    put(this.node.querySelector("h3"), name);
    this.tiles = new Map();
    this.versions = "";
    byId("service-list").append(this.node);
  }

  take(view, at) {
    const kept = view.kept.map((endpoint) => gone(endpoint));
    const all = [...view.instances, ...kept];
    const keys = new Set();
    let next = this.grid.firstElementChild;
    for (const instance of all) {
      const key = `${instance.address} ${instance.port} ${instance.source}`;
      keys.add(key);
      let tile = this.tiles.get(key);
      if (!tile) {
        tile = new Tile(this.name);
        this.tiles.set(key, tile);
        this.grid.insertBefore(tile.node, next);
      } else if (tile.node === next) {
        next = next.nextElementSibling;
      }
      if (tile.take(instance, at)) frames.add(tile, () => tile.show());
      else if (tile.visible) frames.add(tile, () => tile.paint());
    }
    for (const [key, tile] of this.tiles) {
      if (!keys.has(key)) {
        tile.remove();
        this.tiles.delete(key);
      }
    }
    if (!this.grid.querySelector("[tabindex='0']")) this.grid.firstElementChild?.setAttribute("tabindex", "0");
    this.head(view, all);
    frames.add(this, () => this.filter());
  }

  head(view) {
    const route = view.route === "resolve" ? "without reloads (resolve)" : "by reload";
    const parts = [`nginx serves ${view.serving} of ${view.instances.length}`];
    if (view.kept.length) parts.push(`and ${view.kept.length} that no source names any more`);
    parts.push(view.generation ? `generation ${view.generation}` : "nothing is confirmed yet");
    if (view.digest) parts.push(`running ${view.digest.slice(0, 12)}`);
    if (view.applied_at) parts.push(`applied ${duration(clock.age(view.applied_at))} ago`);
    const why = view.rotation?.why ? `; ${view.rotation.why}` : "";
    put(this.node.querySelector(".heading"), `${parts.join(", ")}; changes ${route}${why}`);
    const found = new Map();
    for (const one of view.instances) {
      const count = found.get(one.version) ?? [0, 0];
      found.set(one.version, [count[0] + (one.serving ? 1 : 0), count[1] + 1]);
    }
    const told = [...found].filter(([version]) => version).sort();
    const split = view.rotation?.split ?? {};
    const versions = JSON.stringify([told, split]);
    if (versions !== this.versions) {
      this.versions = versions;
      this.node.querySelector(".versions").replaceChildren(...told.map((each) => this.version(each, split)));
    }
  }

  version([version, [serving, all]], split) {
    const node = make("span", "version");
    const share = Object.hasOwn(split, version) ? `, ${split[version]} %` : "";
    node.append(make("span", "", `${version}: ${serving} of ${all} serve${share} `));
    const press = button("Switch…", `Switch ${this.name} to ${version}`, () => askForSwitch(this.name, version));
    press.classList.add("order");
    press.hidden = !orders.allowed;
    node.append(press);
    return node;
  }

  filter() {
    let fitting = 0;
    for (const tile of this.tiles.values()) {
      const fits = tile.fits();
      if (tile.node.hidden === fits) tile.node.hidden = !fits;
      fitting += fits ? 1 : 0;
    }
    this.node.querySelector(".none").hidden = fitting > 0 || !this.tiles.size;
  }
}

// A server that nginx serves still, though no source names it any more.
function gone(endpoint) {
  const at = endpoint.lastIndexOf(":");
  const address = endpoint.slice(0, at).replace(/^\[|\]$/g, "");
  const reason = "no source names it any more";
  return { address, port: Number(endpoint.slice(at + 1)), state: "gone", serving: true, reason, source: "", version: "", id: "", since: null, probe: null };
}

function showServices(views, at) {
  for (const [name, view] of Object.entries(views)) {
    if (!services.has(name)) services.set(name, new Service(name));
    services.get(name).take(view, at);
  }
  for (const [name, service] of services) {
    if (!(name in views)) {
      service.tiles.forEach((tile) => tile.remove());
      service.node.remove();
      services.delete(name);
    }
  }
}

// Arrow keys, Home and End move from tile to tile; only one tile of a service is a stop of the Tab key.
function move(event, grid) {
  const tiles = [...grid.children].filter((node) => !node.hidden);
  const at = tiles.indexOf(event.target);
  if (at < 0) return;
  const row = Math.max(1, tiles.findIndex((node) => node.offsetTop > tiles[0].offsetTop));
  const steps = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + row, ArrowUp: at - row, Home: 0, End: tiles.length - 1 };
  const to = tiles[steps[event.key]];
  if (!to) return;
  event.preventDefault();
  grid.querySelectorAll("[tabindex='0']").forEach((node) => node.setAttribute("tabindex", "-1"));
  to.setAttribute("tabindex", "0");
  to.focus();
}

function filterAll() {
  for (const service of services.values()) frames.add(service, () => service.filter());
}

function showStates(views) {
  const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  for (const view of Object.values(views)) {
    for (const one of view.instances) counts[one.state] += 1;
    counts.gone += view.kept.length;
  }
  const chips = byId("states");
  for (const state of STATES) {
    const chip = chips.querySelector(`[data-state="${state}"]`) ?? stateChip(state, chips);
    chip.hidden = !counts[state];
    put(chip, `${state} ${counts[state]}`);
  }
}

function stateChip(state, chips) {
  const chip = make("button", "");
  chip.type = "button";
  chip.dataset.state = state;
  chip.setAttribute("aria-pressed", "true");
  chip.addEventListener("click", () => {
    toggle(shownStates, state, chip);
    filterAll();
  });
  chips.append(chip);
  return chip;
}

function toggle(set, value, chip) {
  const on = !set.has(value);
  if (on) set.add(value);
  else set.delete(value);
  chip.setAttribute("aria-pressed", String(on));
}

byId("find").addEventListener("input", (event) => {
  wanted = event.target.value.trim().toLowerCase();
  filterAll();
});
