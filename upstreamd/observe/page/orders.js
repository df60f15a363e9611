// Orders: each is confirmed first, sent with the token, and its answer told.

const orders = { allowed: false, pending: null };

function allow() {
  orders.allowed = true;
  document.body.classList.add("can-order");
  document.querySelectorAll(".order").forEach((node) => { node.hidden = false; });
  put(byId("unlock"), "Another token…");
}

byId("unlock").addEventListener("click", () => {
  byId("token").value = "";
  byId("token-dialog").showModal();
});
byId("token-cancel").addEventListener("click", () => byId("token-dialog").close());
byId("token-form").addEventListener("submit", () => {
  wire.token = byId("token").value.trim();
  byId("token").value = "";
  allow();
  news();
});
byId("order-cancel").addEventListener("click", () => byId("order-dialog").close());
byId("order-form").addEventListener("submit", () => give(orders.pending));

// `order` has title, text, path, body(), and where they apply: force (a sentence) and share (true).
function confirmed(order, refused = "") {
  orders.pending = order;
  put(byId("order-title"), order.title);
  put(byId("order-text"), refused ? `Refused: ${refused}` : order.text);
  put(byId("order-go"), order.title);
  byId("order-force").checked = false;
  byId("order-extra").hidden = !(refused && order.force);
  put(byId("order-force-text"), order.force ?? "");
  byId("order-share").hidden = !order.share;
  byId("order-dialog").showModal();
}

async function give(order) {
  try {
    await wire.order(order.path, order.body());
    say(`Ordered: ${order.title}`);
  } catch (error) {
    if (error.status === 409 && error.kind === "refused" && order.force && !byId("order-force").checked) {
      confirmed(order, error.message);
      return;
    }
    say(`${order.title}: ${error.status ? error.message : "the sidecar does not answer"}`);
  }
  news();
}

function askForDrain(verb, service, endpoint) {
  const word = verb === "drain" ? "Drain" : "Undrain";
  confirmed({
    title: `${word} ${endpoint}`,
    text: verb === "drain" ? `No new requests of ${service} will go to it until it is undrained.` : `It serves ${service} again once its checks pass.`,
    path: `/v1/services/${encodeURIComponent(service)}/instances/${encodeURIComponent(endpoint)}/${verb}`,
    body: () => (verb === "drain" ? { force: byId("order-force").checked } : {}),
    force: verb === "drain" ? "Drain it all the same" : undefined,
  });
}

function askForSwitch(service, version) {
  byId("order-weight").value = "100";
  confirmed({
    title: `Switch ${service} to ${version}`,
    text: "This share of the requests goes to it, the rest to the version that is active now.",
    path: `/v1/services/${encodeURIComponent(service)}/switch`,
    body: () => ({ version, weight: Number(byId("order-weight").value) }),
    share: true,
  });
}

function askForRollback(service, generation) {
  confirmed({
    title: `Roll ${service} back to ${generation}`,
    text: "The version split that was in force in that generation holds again.",
    path: `/v1/services/${encodeURIComponent(service)}/rollback`,
    body: () => ({ generation }),
  });
}

let silence = 0;
function say(text) {
  put(byId("told"), text);
  clearTimeout(silence);
  silence = setTimeout(() => put(byId("told"), ""), 8000);
}
