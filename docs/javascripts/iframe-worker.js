// A page on the disk cannot start the search's Worker, so this runs its script in a hidden frame instead.
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.append(frame);
    this.scope = frame.contentWindow;
    this.scope.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }));
    this.scope.importScripts = async (...urls) => {
      for (const each of urls) await this.load(each);
    };
    this.loaded = this.load(url);
  }

  load(url) {
    return new Promise((resolve, reject) => {
      const script = this.scope.document.createElement("script");
      script.src = url;
      script.onload = resolve;
      script.onerror = reject;
      this.scope.document.head.append(script);
    });
  }

  async postMessage(data) {
    await this.loaded;
    this.scope.dispatchEvent(new this.scope.MessageEvent("message", { data }));
  }
};
if (location.protocol === "file:") window.Worker = window.IFrameWorker;
