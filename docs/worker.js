// A worker for pages that are opened from the disk, where browsers start none: the search runs in a hidden frame instead.
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    const inside = this.frame.contentWindow, code = inside.document.createElement("script");
    const hear = data => {
      const event = new MessageEvent("message", { data });
      this.onmessage?.(event);
      this.dispatchEvent(event);
    };
    inside.postMessage = data => setTimeout(hear, 0, data);
    this.ready = new Promise(done => { code.onload = done; });
    code.src = new URL(url, location).href;
    inside.document.body.append(code);
  }
  postMessage(data) {
    this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
  }
  terminate() { this.frame.remove(); }
};
if (location.protocol === "file:") window.Worker = window.IFrameWorker;
