// Talks to the server at argv[2] with every JavaScript client, and prints what each got as one JSON object.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const require = createRequire(path.join(import.meta.dirname, "installed", "package.json"));
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);
const { OpenAI } = await load("openai");
const { InferenceClient } = await load("@huggingface/inference");
const { generateText, streamText } = await load("ai");
const { createOpenAI } = await load("@ai-sdk/openai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");

const url = process.argv[2];
const messages = [{ role: "user", content: "hello" }];
const plain = { temperature: 0, max_tokens: 12 };
const steps = { diffusion: { events: "steps" } };
const got = {};

async function joined(stream, text) {
  let all = "";
  for await (const part of stream) all += text(part) ?? "";
  return all;
}

const openai = new OpenAI({ baseURL: url + "/v1", apiKey: "-", maxRetries: 0 });
const chat = { model: "any", messages, ...plain };
got.openaiChat = (await openai.chat.completions.create(chat)).choices[0].message.content;
const delta = (chunk) => chunk.choices[0].delta.content;
got.openaiChatStream = await joined(await openai.chat.completions.create({ ...chat, stream: true }), delta);
got.openaiChatSteps = await joined(await openai.chat.completions.create({ ...chat, stream: true, ...steps }), delta);
const completion = { model: "any", prompt: "hello", ...plain };
got.openaiCompletion = (await openai.completions.create(completion)).choices[0].text;
got.openaiCompletionStream = await joined(
  await openai.completions.create({ ...completion, stream: true }), (chunk) => chunk.choices[0].text);
const response = { model: "any", input: "hello", temperature: 0, max_output_tokens: 12 };
got.openaiResponse = (await openai.responses.create(response)).output_text;
const words = (event) => (event.type === "response.output_text.delta" ? event.delta : "");
got.openaiResponseStream = await joined(await openai.responses.create({ ...response, stream: true }), words);
got.openaiResponseSteps = await joined(await openai.responses.create({ ...response, stream: true, ...steps }), words);
try {
  await openai.chat.completions.create({ ...chat, max_tokens: 0 });
} catch (error) {
  got.openaiError = [error.status, error.param];
}

const hf = new InferenceClient("-", { endpointUrl: url });
const chatAt = new InferenceClient("-", { endpointUrl: url + "/v1" });
const generation = { inputs: "hello", parameters: { max_new_tokens: 12, temperature: 0 } };
got.hfGeneration = (await hf.textGeneration(generation)).generated_text;
got.hfGenerationStream = await joined(hf.textGenerationStream(generation), (chunk) => chunk.choices[0].text);
got.hfChat = (await chatAt.chatCompletion(chat)).choices[0].message.content;
got.hfChatStream = await joined(chatAt.chatCompletionStream(chat), delta);
got.hfChatSteps = await joined(chatAt.chatCompletionStream({ ...chat, ...steps }), delta);

const asked = { messages, temperature: 0, maxOutputTokens: 12, maxRetries: 0 };
const compatible = createOpenAICompatible({ name: "optimus", baseURL: url + "/v1" });
got.aiChat = (await generateText({ model: compatible("any"), ...asked })).text;
got.aiChatStream = await joined(streamText({ model: compatible("any"), ...asked }).textStream, (text) => text);
const native = createOpenAI({ baseURL: url + "/v1", apiKey: "-" });
got.aiResponses = (await generateText({ model: native("any"), ...asked })).text;
got.aiResponsesStream = await joined(streamText({ model: native("any"), ...asked }).textStream, (text) => text);

console.log(JSON.stringify(got));
