// Text as it is shown. All that was discovered is hostile: it only ever becomes the text of a node or an attribute that
// shows text, and characters that steer or reverse what surrounds them are spelled out.

const STEERING = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const LONGEST = 2000;

const byId = (id) => document.getElementById(id);

function plain(text) {
  const cut = String(text ?? "").slice(0, LONGEST);
  return cut.replace(STEERING, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// Changes the text of `node` only where it is another one, for what does not change costs no layout.
function put(node, text) {
  const shown = plain(text);
  if (node.shown !== shown) {
    node.shown = shown;
    node.textContent = shown;
  }
}

function make(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) put(node, text);
  return node;
}

function button(text, label, press) {
  const node = make("button", "", text);
  node.type = "button";
  node.setAttribute("aria-label", plain(label));
  node.addEventListener("click", press);
  return node;
}

function duration(seconds) {
  const whole = Math.max(0, seconds);
  if (whole < 1) return `${whole.toFixed(1)}s`;
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["m", 60]]) {
    if (whole >= 2 * length) return `${Math.floor(whole / length)}${unit}`;
  }
  return `${Math.floor(whole)}s`;
}

function milliseconds(seconds) {
  const found = seconds * 1000;
  return `${found < 10 ? found.toFixed(1) : Math.round(found)} ms`;
}

function endpointOf(instance) {
  return instance.address.includes(":") ? `[${instance.address}]:${instance.port}` : `${instance.address}:${instance.port}`;
}

function counted(number, one, many) {
  return number === 1 ? `1 ${one}` : `${number} ${many}`;
}

// The sidecar's clock: ages are told by its time, not by that of the machine that shows them.
const clock = {
  at: 0,
  read: 0,
  set(iso) {
    this.at = Date.parse(iso);
    this.read = performance.now();
  },
  now() {
    return this.at + performance.now() - this.read;
  },
  age(iso) {
    return (this.now() - Date.parse(iso)) / 1000;
  },
};
