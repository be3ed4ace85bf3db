// Sends a file in parts by the tus protocol (https://tus.io), and continues where it was: after a pause, after the
// connection was lost, and when the same file is chosen again on a page that was loaded anew.

const PART_BYTES = 32 * 2 ** 20;
const LONGEST_WAIT_SECONDS = 30;
const TUS = { "Tus-Resumable": "1.0.0" };
// A dataset is being made for as long as it takes; each request for it waits a while by itself.
const PASSING = [0, 202, 408, 409, 429, 500, 502, 503, 504];
const LASTING_CONFLICTS = ["dataset_quota", "upload_quota", "dataset_replaced", "too_many_parts"];

export class RefusedError extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? String(status));
    this.status = status;
    this.problem = problem;
  }
}

export class CancelledError extends Error {}

const keyOf = (file) => `finetooth-upload ${file.name} ${file.size} ${file.lastModified}`;

// Where a browser keeps nothing, a reload begins anew.
function recall(file) { try { return localStorage.getItem(keyOf(file)); } catch { return null; } }
function remember(file, at) { try { localStorage.setItem(keyOf(file), at); } catch { /* as above */ } }
function forget(file) { try { localStorage.removeItem(keyOf(file)); } catch { /* as above */ } }

export const isKnown = (file) => recall(file) !== null;

const encode = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

export class ResumableUpload {
  #request = null;
  #wake = null;
  #cancelled = false;
  paused = false;

  // `tell` has progress(bytes sent), waits(seconds, whether nothing came back) and checks().
  constructor(file, address, tell) {
    this.file = file;
    this.address = address;
    this.tell = tell;
    this.at = recall(file);
  }

  // Gives the dataset. Throws RefusedError, and CancelledError.
  async run(query) {
    let failures = 0;
    for (;;) {
      if (this.#cancelled) throw new CancelledError();
      if (this.paused) { await this.#sleep(null); continue; }
      try {
        const dataset = await this.#step(query);
        if (dataset) return dataset;
        failures = 0;
      } catch (error) {
        if (!(error instanceof RefusedError)) throw error;
        if (this.paused || this.#cancelled) continue;
        const lasting = error.status === 409 && LASTING_CONFLICTS.includes(error.problem?.code);
        if (!PASSING.includes(error.status) || lasting) throw error;
        if (error.status === 202) continue;
        failures += 1;
        const seconds = Math.min(2 ** (failures - 1), LONGEST_WAIT_SECONDS);
        this.tell.waits(seconds, error.status === 0);
        await this.#sleep(seconds);
      }
    }
  }

  pause() {
    this.paused = true;
    this.#request?.abort();
  }

  resume() {
    this.paused = false;
    this.#wake?.();
  }

  // What has come so far is dropped on the server, too.
  async cancel() {
    this.#cancelled = true;
    this.#request?.abort();
    this.#wake?.();
    await this.drop();
  }

  async drop() {
    forget(this.file);
    if (this.at) await fetch(this.at, { method: "DELETE", headers: TUS }).catch(() => {});
  }

  async #step(query) {
    if (!this.at) {
      const begun = await this.#send("POST", this.address, {
        ...TUS, "Upload-Length": String(this.file.size), "Upload-Metadata": `filename ${encode(this.file.name)}`,
      });
      this.at = begun.getResponseHeader("Location");
      remember(this.file, this.at);
    }
    let offset;
    try {
      offset = Number((await this.#send("HEAD", this.at, TUS)).getResponseHeader("Upload-Offset"));
    } catch (error) {
      if (error.status !== 404) throw error;
      forget(this.file);
      this.at = null;
      return null;
    }
    this.tell.progress(offset);
    if (offset < this.file.size) {
      const part = this.file.slice(offset, offset + PART_BYTES);
      const headers = { ...TUS, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
      await this.#send("PATCH", this.at, headers, part, (loaded) => this.tell.progress(offset + loaded));
      return null;
    }
    this.tell.checks();
    const made = JSON.parse((await this.#send("POST", `${this.at}/dataset?${query}`, {})).responseText);
    forget(this.file);
    return made;
  }

  #send(method, address, headers, body = null, progress = null) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.#request = request;
      request.open(method, address);
      Object.entries(headers).forEach(([name, value]) => request.setRequestHeader(name, value));
      if (progress) request.upload.onprogress = (event) => progress(event.loaded);
      request.onload = () => {
        if (request.status >= 200 && request.status < 300 && request.status !== 202) { resolve(request); return; }
        let problem = null;
        try { problem = JSON.parse(request.responseText); } catch { /* not ours: a proxy's page, or no body */ }
        reject(new RefusedError(request.status, problem));
      };
      request.onerror = request.onabort = request.ontimeout = () => reject(new RefusedError(0, null));
      request.send(body);
    });
  }

  // Until the time is over, the network is back, or somebody wakes it; null: until somebody does.
  #sleep(seconds) {
    return new Promise((resolve) => {
      const timer = seconds === null ? 0 : setTimeout(done, seconds * 1000);
      const wake = () => done();
      function done() {
        clearTimeout(timer);
        removeEventListener("online", wake);
        resolve();
      }
      if (seconds !== null) addEventListener("online", wake);
      this.#wake = wake;
    });
  }
}
