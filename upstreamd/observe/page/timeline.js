// What happened, newest first.

const ROWS = 300;
const GATHER = 200; // milliseconds for which events are gathered, for each frame costs
const KINDS = ["discovery", "health", "decision", "apply", "order"];
const shownKinds = new Set(KINDS);
const timeline = { waiting: [], paused: false, timer: 0, find: "", cause: "" };

function tell(events) {
  timeline.waiting.push(...events);
  if (timeline.waiting.length > ROWS) timeline.waiting.splice(0, timeline.waiting.length - ROWS);
  if (!timeline.paused) timeline.timer ||= setTimeout(() => frames.add(timeline, showEvents), GATHER);
  else put(byId("pause"), `Go on (${timeline.waiting.length} new)`);
}

function showEvents() {
  timeline.timer = 0;
  const list = byId("events");
  const fresh = timeline.waiting.splice(0).map(row).reverse();
  list.prepend(...fresh);
  while (list.children.length > ROWS) list.lastElementChild.remove();
}

function row({ kind, said }) {
  const node = make("li");
  node.event = { kind, said };
  const gap = kind === "gap";
  const time = make("time", "", gap ? "" : said.at.slice(11, 21));
  if (!gap) {
    time.dateTime = said.at;
    time.title = said.at;
  }
  const tag = make("span", "kind", kind);
  tag.dataset.kind = kind;
  const named = said.service && !plain(said.text).split(" ").includes(said.service) ? `${said.service}: ` : "";
  const text = make("bdi", "text", gap ? `${said.missed} events are forgotten already` : named + said.text);
  node.append(time, tag, text);
  if (said.cause) node.append(button(said.cause.slice(0, 4), `Show only what has the cause ${said.cause}`, () => chooseCause(said.cause)));
  node.hidden = !fits(node.event);
  return node;
}

function fits({ kind, said }) {
  if (kind === "gap") return true;
  if (!shownKinds.has(kind) || (timeline.cause && said.cause !== timeline.cause)) return false;
  return !timeline.find || `${said.service} ${said.instance} ${said.text}`.toLowerCase().includes(timeline.find);
}

function filterEvents() {
  for (const node of byId("events").children) node.hidden = !fits(node.event);
}

function chooseCause(cause) {
  timeline.cause = cause;
  byId("all-causes").hidden = !cause;
  filterEvents();
  (cause ? byId("all-causes") : byId("events")).focus();
}

for (const kind of KINDS) {
  const chip = button(kind, `Events of kind ${kind}`, () => {
    toggle(shownKinds, kind, chip);
    filterEvents();
  });
  chip.setAttribute("aria-pressed", "true");
  byId("kinds").append(chip);
}

byId("all-causes").addEventListener("click", () => chooseCause(""));
byId("find-event").addEventListener("input", (event) => {
  timeline.find = event.target.value.trim().toLowerCase();
  filterEvents();
});
byId("pause").addEventListener("click", (event) => {
  timeline.paused = !timeline.paused;
  event.target.setAttribute("aria-pressed", String(timeline.paused));
  put(event.target, timeline.paused ? "Go on" : "Pause");
  if (!timeline.paused) frames.add(timeline, showEvents);
});
