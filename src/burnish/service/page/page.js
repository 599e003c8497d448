"use strict";

// Model output reaches the document through textContent only: markup in it is shown, never interpreted.

const at = (id) => document.getElementById(id);
const log = at("log"), input = at("input");
const SAMPLING = { temperature: 0.7, top_p: 0.95 }; // small models wander at temperature 1
const KEY = "burnish.key", TURNS = "burnish.turns", THEME = "burnish.theme";

let model = null;
let chats = true; // until the model turns out to have no chat template
let turns = JSON.parse(sessionStorage.getItem(TURNS) ?? "[]");
let running = null; // the AbortController of the answer being written

class Refused extends Error {
  constructor(status, { message, code }) {
    super(message);
    Object.assign(this, { status, code });
  }
}

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Refused(response.status, body?.error ?? { message: `The server answered ${response.status}.` });
}

async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffered = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The connection broke off.");
    const events = (buffered + value).split("\n\n");
    buffered = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function show(role, text) {
  const article = document.createElement("article");
  const said = document.createElement("div");
  article.className = role;
  article.setAttribute("aria-label", role === "user" ? "You" : "Model");
  said.className = "text";
  said.textContent = text;
  article.append(said);
  log.append(article);
  log.scrollTop = log.scrollHeight;
  return { article, said };
}

function fault(message) {
  at("error").textContent = message;
  at("error").hidden = !message;
}

function busy(controller) {
  running = controller;
  at("send").hidden = Boolean(controller);
  at("stop").hidden = !controller;
}

function keep() {
  sessionStorage.setItem(TURNS, JSON.stringify(turns));
}

// Tokens per second of decoding: the first token's wait belongs to the prompt.
function figures(numTokens, firstAt, lastAt) {
  const rate = numTokens > 1 ? `${((numTokens - 1) / Math.max(lastAt - firstAt, 1) * 1000).toFixed(1)} tokens/s` : "";
  return [`${numTokens} ${numTokens === 1 ? "token" : "tokens"}`, rate].filter(Boolean).join(" · ");
}

function follow(change) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function post(path, body, signal) {
  return call(path, { method: "POST", body: JSON.stringify({ model, ...body }), signal });
}

// The answer to a conversation; a model without chat template continues what was said last.
async function ask(conversation, signal) {
  const how = { ...SAMPLING, stream: true, stream_options: { include_usage: true } };
  if (chats) {
    try {
      return await post("/v1/chat/completions", { messages: conversation, ...how }, signal);
    } catch (error) {
      if (error.code !== "no_chat_template") throw error;
      chats = false;
    }
  }
  const prompt = conversation.at(-1).content;
  const { count, max_model_len } = await (await post("/tokenize", { prompt }, signal)).json();
  return post("/v1/completions", { prompt, max_tokens: Math.max(max_model_len - count, 1), ...how }, signal);
}

async function answer(conversation) {
  const { article, said } = show("assistant", "");
  const note = document.createElement("div");
  const controller = new AbortController();
  let text = "", ending = "", numTokens = 0, firstAt = 0, lastAt = 0;
  note.className = "figures";
  article.append(note);
  article.setAttribute("aria-busy", "true");
  busy(controller);
  try {
    const response = await ask(conversation, controller.signal);
    for await (const chunk of serverSentEvents(response.body)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const piece = chunk.choices[0]?.delta?.content ?? chunk.choices[0]?.text;
      if (piece) {
        lastAt = performance.now();
        firstAt ||= lastAt;
        numTokens += 1;
        text += piece;
      }
      if (chunk.choices[0]?.finish_reason === "length") ending = " · length limit reached";
      if (chunk.usage) numTokens = chunk.usage.completion_tokens;
      follow(() => {
        said.textContent = text;
        if (numTokens) note.textContent = figures(numTokens, firstAt, lastAt) + ending;
      });
    }
  } catch (error) {
    if (error.name === "AbortError") note.textContent += " · stopped";
    else throw error;
  } finally {
    article.setAttribute("aria-busy", "false");
    if (text) conversation.push({ role: "assistant", content: text });
    else article.remove();
    keep();
    busy(null);
    input.focus();
  }
}

async function send(text) {
  const conversation = turns; // "New chat" begins another one while this answer may still be ending
  fault("");
  conversation.push({ role: "user", content: text });
  const { article } = show("user", text);
  try {
    await answer(conversation);
  } catch (error) {
    if (error.status === 401) askForKey();
    else fault(error.message);
  }
  if (conversation.at(-1).role === "user") { // nothing was answered: the question goes back into the field
    conversation.pop();
    keep();
    article.remove();
    input.value ||= text;
  }
}

function askForKey() {
  sessionStorage.removeItem(KEY);
  if (!at("sign-in").open) at("sign-in").showModal();
}

async function introduce() {
  try {
    const { data } = await (await call("/v1/models")).json();
    model = data[0].id;
    at("model").textContent = `${model} · ${data[0].weights}`;
    document.title = `${model} · burnish`;
    fault("");
  } catch (error) {
    if (error.status === 401) askForKey();
    else fault(error.message);
  }
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (!text || running || !model) return;
  input.value = "";
  send(text);
});
at("stop").addEventListener("click", () => running?.abort());
at("fresh").addEventListener("click", () => {
  running?.abort();
  turns = [];
  keep();
  log.replaceChildren();
  fault("");
  input.focus();
});
at("theme").addEventListener("click", () => {
  const root = document.documentElement.style;
  const dark = (root.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.colorScheme = dark ? "light" : "dark";
  localStorage.setItem(THEME, root.colorScheme);
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value);
  at("key").value = "";
  at("sign-in").close();
  introduce();
});
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});

document.documentElement.style.colorScheme = localStorage.getItem(THEME) ?? "";
for (const { role, content } of turns) show(role, content);
introduce();
