import { defineConfig } from "vitest/config";

// The bundle goes into the Python package under fixed names, so that a change of the page is a change of
// three files and two builds of one source are equal byte for byte.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/sppnet/server/page",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: false,
    reportCompressedSize: false,
    rollupOptions: {
      output: {
        entryFileNames: "assets/page.js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/page[extname]",
      },
    },
  },
  server: {
    proxy: {
      "/api": "http://127.0.0.1:8000",
      "/image": "http://127.0.0.1:8000",
      "/thumb": "http://127.0.0.1:8000",
    },
  },
  // one worker and one page for all files: to start a page takes longer than all tests
  test: {
    environment: "happy-dom",
    isolate: false,
    fileParallelism: false,
    include: ["test/**/*.test.ts", "test/**/*.test.tsx"],
  },
});
