// The search runs in a worker, and a page opened as a file may start none. Here a hidden frame does a worker's work.
(() => {
  "use strict";
  if (location.protocol !== "file:") return;

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.onmessage = this.onerror = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      // The script calls postMessage for its answers, and importScripts for languages.
      const inner = this.frame.contentWindow;
      inner.importScripts = (...urls) =>
        urls.reduce((before, one) => before.then(() => load(inner, one)), Promise.resolve());
      inner.postMessage = (data) => this.#answer(new MessageEvent("message", { data }));
      this.ready = load(inner, String(url));
    }

    #answer(event) {
      this.dispatchEvent(event);
      this.onmessage?.(event);
    }

    postMessage(data) {
      this.ready.then(() => {
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };

  function load(inner, url) {
    return new Promise((resolve, reject) => {
      const script = inner.document.createElement("script");
      script.src = url;
      script.onload = resolve;
      script.onerror = reject;
      inner.document.body.append(script);
    });
  }
})();
