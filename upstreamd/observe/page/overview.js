// What concerns the whole: banners, nginx, sources.

const RESTORED_SHOWN = 300; // seconds for which a drift that was undone is told

function showOverview(status) {
  showBanners(status);
  showSummary(status);
  showNginx(status);
  showSources(status.sources);
  put(byId("about"), `upstreamd ${status.version}`);
}

function banners(status) {
  const found = [];
  const failure = { rejected: "The last apply was rejected", unconfirmed: "The last apply was not confirmed", failed: "The last apply failed" }[status.outcome?.kind];
  if (!status.ready) found.push(["bad", "Not ready", status.reason]);
  else if (status.reason) found.push(["warn", "Serving", status.reason]);
  if (failure && !(status.reason && status.reason.includes(status.outcome.detail))) found.push(["bad", failure, status.outcome.detail]);
  if (status.nginx.problem) found.push(["bad", "nginx", status.nginx.problem]);
  for (const [name, view] of Object.entries(status.services)) {
    const told = view.alarms.some((alarm) => alarm.includes("panic"));
    if (view.panic && !told) found.push(["bad", "Panic", `${name}: too few are healthy, so all that were checked serve`]);
    for (const alarm of view.alarms) found.push(alarm.includes("panic") ? ["bad", "Panic", alarm] : ["warn", "Alarm", alarm]);
    if (view.restored_at && clock.age(view.restored_at) < RESTORED_SHOWN) {
      const text = `${name}: the file was changed by another hand, or nginx was restarted; generation ${view.generation} was put in force again`;
      found.push(["warn", "Drift", text]);
    }
  }
  return found;
}

function showBanners(status) {
  const found = banners(status);
  const box = byId("banners");
  const text = JSON.stringify(found);
  if (box.told === text) return;
  box.told = text;
  box.replaceChildren(...found.map(([level, title, sentence]) => {
    const node = make("p", level === "bad" ? "banner bad" : "banner");
    node.append(make("b", "", title), make("bdi", "", sentence));
    return node;
  }));
}

function showSummary(status) {
  const views = Object.values(status.services);
  const all = views.reduce((sum, view) => sum + view.instances.length, 0);
  const serving = views.reduce((sum, view) => sum + view.serving, 0);
  const waiting = status.pending ? "; a change is waiting" : "";
  const good = status.ready && serving === all && all > 0;
  put(byId("summary"), `${serving} of ${counted(all, "instance serves", "instances serve")}${waiting}`);
  byId("summary").dataset.state = good ? "good" : status.ready ? "" : "bad";
  document.title = good ? "upstreamd" : `(${all - serving} out) upstreamd`;
}

function showNginx(status) {
  const nginx = status.nginx;
  const generations = Object.values(status.services).map((view) => view.generation);
  const facts = {
    version: nginx.version || "not known",
    master: nginx.master ? `pid ${nginx.master}` : "none",
    workers: nginx.draining ? `${nginx.workers}, and ${counted(nginx.draining, "old one", "old ones")} still draining` : String(nginx.workers),
    generation: String(Math.max(0, ...generations)),
    "last apply": status.outcome ? `${status.outcome.kind} in ${milliseconds(status.outcome.duration_seconds)}` : "none yet",
  };
  const list = byId("nginx");
  for (const [name, fact] of Object.entries(facts)) {
    let value = list.querySelector(`dd[data-fact="${name}"]`);
    if (!value) {
      value = make("dd");
      value.dataset.fact = name;
      list.append(make("dt", "", name), value);
    }
    put(value, fact);
  }
}

function showSources(sources) {
  const list = byId("sources");
  const names = Object.keys(sources);
  while (list.children.length > names.length) list.lastElementChild.remove();
  while (list.children.length < names.length) {
    const row = make("li");
    row.append(make("span", "name"), " ", make("span", "health"), " ", make("span", "age"), " ", make("bdi", "error badtext"));
    list.append(row);
  }
  names.forEach((name, at) => {
    const source = sources[name];
    const [label, health, age, error] = list.children[at].children;
    put(label, name);
    put(health, source.ok ? "ok" : "failing");
    health.className = source.ok ? "health good" : "health badtext";
    const skipped = source.skipped_count ? `, ${source.skipped_count} refused` : "";
    const told = source.age_seconds === null ? "has not answered yet" : `answered ${duration(source.age_seconds)} ago`;
    put(age, `${counted(source.instances, "instance", "instances")}${skipped}, ${told}`);
    const refused = source.skipped[0] ? `${source.skipped[0].entry}: ${source.skipped[0].reason}` : "";
    put(error, source.error || refused);
  });
}
