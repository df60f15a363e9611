// Keeps the page up to date: events say that something happened, the status says what stands. It is asked for at once
// after the first event of a quiet time, then once a second at most, and every other second for the probes' sake.

const EAGER = 1000;
const IDLE = 2000;
const COSTLY = 10; // a status that takes long to fetch is asked for so many times less often

const looking = { at: 0, cost: 0, timer: 0, busy: false, again: false };

function news() {
  plan(Math.max(0, looking.at + Math.max(EAGER, COSTLY * looking.cost) - performance.now()));
}

function plan(wait) {
  const at = performance.now() + wait;
  if (looking.timer && looking.due <= at) return;
  clearTimeout(looking.timer);
  looking.due = at;
  looking.timer = setTimeout(look, wait);
}

async function look() {
  looking.timer = 0;
  if (looking.busy) return;
  looking.busy = true;
  const began = performance.now();
  looking.at = began;
  try {
    show(await wire.ask("/v1/status"));
  } catch (error) {
    put(byId("summary"), error.status ? error.message : "The sidecar does not answer; what stands here is old.");
    byId("summary").dataset.state = "bad";
  } finally {
    looking.busy = false;
    looking.cost = performance.now() - began;
    if (!document.hidden) plan(Math.max(IDLE, COSTLY * looking.cost));
  }
}

function show(status) {
  clock.set(status.at);
  showOverview(status);
  showStates(status.services);
  showServices(status.services, clock.at);
}

let history_timer = 0;
function lookBack() {
  clearTimeout(history_timer);
  history_timer = setTimeout(async () => {
    try {
      showHistory(await wire.ask(`/v1/history?last=${GENERATIONS}`));
    } catch {
      history_timer = setTimeout(lookBack, IDLE); // the status tells why
    }
  }, 300);
}

function connection(state, why = "") {
  const words = { connecting: "connecting", live: "live", lost: "not connected", locked: "locked" };
  byId("connection").dataset.state = state === "locked" ? "lost" : state;
  put(byId("connection"), words[state]);
  byId("connection").title = plain(why);
  if (state === "locked" && !byId("token-dialog").open && !wire.token) byId("token-dialog").showModal();
  if (state === "live") {
    lookBack();
    news();
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) news();
});
setInterval(() => {
  if (document.hidden) return;
  for (const service of services.values()) {
    for (const tile of service.tiles.values()) if (tile.visible) frames.add(tile, frames.work.get(tile) ?? (() => tile.paint()));
  }
}, 1000);

look();
listen((events) => {
  tell(events);
  news();
  if (events.some((event) => event.kind === "apply")) lookBack();
}, connection);
