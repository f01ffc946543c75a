// The editor of a policy: numbers and notes at their lines, a test with its progress. The page works without it.
"use strict";
(() => {
  const form = document.getElementById("editor");
  const text = document.getElementById("document");
  const numbers = form.querySelector(".numbers");
  let changed = false;

  // The field is as high as its text, so that numbers and notes stand beside their lines.
  const height = () => parseFloat(getComputedStyle(text).lineHeight);
  const fit = () => {
    const lines = text.value.split("\n").length;
    text.rows = lines + 1;
    if (numbers.childElementCount === lines) return;
    numbers.replaceChildren(...Array.from({ length: lines }, (_, at) => {
      const number = document.createElement("span");
      number.textContent = at + 1;
      return number;
    }));
  };
  const annotate = () => {
    for (const number of numbers.children) number.className = "";
    const list = form.querySelector(".notes");
    if (!list) return;
    const beside = getComputedStyle(list).position === "relative";
    let bottom = 0;
    for (const note of list.children) {
      const line = Number(note.dataset.line || 0);
      const number = numbers.children[line - 1];
      if (number && number.className !== "error") number.className = note.className;
      note.style.top = "";
      if (!beside) continue;
      bottom = Math.max(bottom, (line - 1) * height());
      note.style.top = `${bottom}px`;
      bottom += note.offsetHeight + 4;
    }
    list.style.minHeight = beside ? `${bottom}px` : "";
  };
  const goTo = (line) => {
    const lines = text.value.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
    text.focus();
    text.setSelectionRange(start, start + (lines[line - 1] || "").length);
    numbers.children[line - 1]?.scrollIntoView({ block: "center" });
  };
  text.addEventListener("input", () => { changed = true; fit(); });
  form.addEventListener("click", (event) => {
    const to = event.target.closest("[data-goto]");
    if (to) goTo(Number(to.dataset.goto));
  });
  document.addEventListener("htmx:after:swap", annotate);
  new ResizeObserver(annotate).observe(text);
  fit();
  annotate();

  // Changes are kept as a draft, one request after the other. Each has a number: one that arrives late changes nothing.
  const kept = document.getElementById("kept");
  const tell = (said, bad) => {
    kept.textContent = said;
    kept.className = bad ? "message bad" : "quiet small";
  };
  let keeping = false, refused = false, leaving = false, timer = 0;
  const send = (more) => {
    form.elements.number.value = Number(form.elements.number.value) + 1;
    const body = new URLSearchParams(new FormData(form));
    body.delete("text");  // what is tried is kept nowhere
    return fetch("/policy/draft", { method: "POST", body, headers: { "hx-request": "true" }, ...more });
  };
  const keep = async () => {
    timer = 0;
    if (keeping || refused || !changed) return;
    keeping = true;
    const sent = text.value;
    try {
      const answer = await send({});
      if (answer.ok) {
        const { saved, at } = await answer.json();
        document.querySelectorAll("input[name=saved]").forEach((one) => { one.value = saved; });
        if (text.value === sent) changed = false;
        tell(`Your draft was kept at ${at} UTC.`, false);
      } else {
        refused = answer.status === 409 || answer.status === 413;
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        tell(page.querySelector("main h1 ~ p")?.textContent || "The console could not keep this.", true);
      }
    } catch {
      tell("Your last changes are not kept: the console does not answer. It is tried again.", true);
    }
    keeping = false;
    if (changed) soon();
  };
  const soon = () => { timer ||= setTimeout(keep, 2000); };
  const last = () => { if (changed && !refused) send({ keepalive: true }).catch(() => {}); };
  text.addEventListener("input", soon);
  form.querySelector("[data-keep]").addEventListener("click", (event) => {
    event.preventDefault();
    changed = true;
    keep();
  });

  // A text that was changed and not kept is not left without a question.
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    if (event.target === form) last();
    leaving = true;
    changed = false;
  });
  window.addEventListener("pageshow", () => { leaving = false; });
  window.addEventListener("pagehide", () => { if (!leaving) last(); });
  window.addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });

  // A test is one request, whose answer has a line for each step. To abort it is to cancel the test.
  const begin = form.querySelector("[data-test]");
  if (!begin) return;
  const cancel = document.getElementById("cancel");
  const progress = document.getElementById("progress");
  const report = document.getElementById("report");
  const say = (problem) => {
    const said = document.createElement("p");
    said.className = "message bad";
    said.setAttribute("role", "alert");
    said.textContent = problem;
    report.replaceChildren(said);
  };
  const take = (line) => {
    const told = JSON.parse(line);
    if (told.problem) return say(told.problem);
    if (told.html) {
      report.innerHTML = told.html;
      return;
    }
    const { count = 0, total = 0, title = "" } = told.progress;
    document.getElementById("bar").value = total ? count / total : 0;
    progress.querySelector("span").textContent = total ? `${count} of ${total}: ${title}` : "connecting";
  };
  const judge = async (signal) => {
    const headers = { "hx-request": "true" };
    const answer = await fetch("/policy/test", { method: "POST", body: new URLSearchParams(new FormData(form)), headers, signal });
    if (!answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      return say(page.querySelector("main h1 ~ p")?.textContent || "The console could not answer.");
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", last = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      lines.forEach(take);
      last = lines.at(-1) || last;
    }
    if (last.startsWith('{"progress"')) say("The test ended before its end. Try it again.");
  };
  begin.addEventListener("click", async (event) => {
    event.preventDefault();
    const abort = new AbortController();
    cancel.onclick = () => abort.abort();
    [begin.disabled, cancel.hidden, progress.hidden] = [true, false, false];
    take('{"progress": {}}');
    report.replaceChildren();
    try {
      await judge(abort.signal);
    } catch (error) {
      say(abort.signal.aborted ? "The test was cancelled." : "The console does not answer. Try again in a minute.");
    } finally {
      [begin.disabled, cancel.hidden, progress.hidden] = [false, true, true];
    }
  });
})();
