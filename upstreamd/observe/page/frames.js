// Work that touches the document is done in slices, a few milliseconds a frame, so that the page answers meanwhile.

const SLICE = 6;

const frames = {
  work: new Map(),
  asked: false,
  // `task` runs in one of the next frames; of several with one key the latest runs.
  add(key, task) {
    this.work.set(key, task);
    this.ask();
  },
  drop(key) {
    this.work.delete(key);
  },
  ask() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => this.run());
  },
  run() {
    this.asked = false;
    const end = performance.now() + SLICE;
    for (const [key, task] of this.work) {
      this.work.delete(key);
      task();
      if (performance.now() > end) break;
    }
    if (this.work.size) this.ask();
  },
};
