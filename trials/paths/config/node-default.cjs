const httpProxy = require("http-proxy");

httpProxy.createProxyServer({target: "http://127.0.0.1:@UPSTREAM@"}).listen(@PORT@, "127.0.0.1");
