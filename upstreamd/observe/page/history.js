// What nginx was made to serve, newest first, and the way back.

const GENERATIONS = 50;
const NAMED = 12;

function showHistory(generations) {
  const list = byId("history");
  const text = JSON.stringify(generations.map((each) => [each.generation, each.at]));
  if (list.told === text) return;
  list.told = text;
  if (!generations.length) {
    list.replaceChildren(make("li", "faint", "Nothing has been applied yet."));
    return;
  }
  const before = [...list.querySelectorAll("details[open]")].map((node) => node.key);
  list.replaceChildren(...generations.map((each) => generationRow(each, before)));
}

function generationRow(each, open) {
  const node = make("li");
  const details = make("details");
  const summary = make("summary");
  details.key = `${each.generation} ${each.at}`;
  details.open = open.includes(details.key);
  const time = make("time", "faint", `${each.at.slice(0, 10)} ${each.at.slice(11, 19)}Z `);
  time.dateTime = each.at;
  summary.append(make("span", "number", each.generation), time, make("bdi", "", each.cause));
  details.append(summary);
  for (const [name, change] of Object.entries(each.changes)) details.append(changeRow(each.generation, name, change));
  node.append(details);
  return node;
}

function changeRow(generation, name, change) {
  const node = make("p");
  const diff = make("span", "diff");
  const lines = [
    ...change.added.map((endpoint) => ["plus", `+${endpoint}`]),
    ...change.removed.map((endpoint) => ["minus", `-${endpoint}`]),
    ...change.changed.map((other) => ["", `${other.endpoint} ${otherwise(other)}`]),
  ];
  diff.append(...lines.slice(0, NAMED).map(([className, text]) => make("span", className, text)));
  if (lines.length > NAMED) diff.append(make("span", "faint", `and ${lines.length - NAMED} more`));
  const split = Object.entries(change.split).map(([version, share]) => `${version || "others"} ${share} %`).join(", ");
  node.append(make("b", "", `${name} `), make("span", "faint", `${counted(change.servers, "server", "servers")}${split ? `, ${split}` : ""}: `), diff);
  const back = button("Roll back…", `Roll ${name} back to generation ${generation}`, () => askForRollback(name, generation));
  back.classList.add("order");
  back.hidden = !orders.allowed;
  node.append(back);
  return node;
}

function otherwise({ from, to }) {
  return Object.keys(to).filter((key) => from[key] !== to[key]).map((key) => `${key} ${from[key]} → ${to[key]}`).join(", ");
}
